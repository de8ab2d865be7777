"""Control of a live view and the way to it, on both databases."""

import asyncio
from datetime import timedelta

import pytest

from app.database import Database
from app.models import AuthorizationSession, LiveControl, Process, SessionStatus, utc_now
from app.services.browser.live_tabs import LiveTabs
from app.services.live.certificates import make_certificate
from app.services.live.controls import LiveControls
from app.services.live.directory import LiveSession, find_live_session
from app.services.live.passes import LivePasses
from app.services.live.processes import LiveProcesses
from app.services.live.relay import LiveRelay, RelayError
from app.services.live.server import LiveServer
from app.services.shared.access import EVERYTHING, AccessScope
from app.utils.exceptions import SessionNotFoundException
from tests.fixtures.costs import explained
from tests.fixtures.factories import AddRow, new_profile, new_session
from tests.fixtures.live import made_up_browser, picture

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

OWNER = "machine:1:abc"


async def running(add: AddRow) -> AuthorizationSession:
    profile = new_profile(account_id="anna_1")
    row = new_session(profile, status=SessionStatus.IN_PROGRESS, lease_owner=OWNER, lease_token="t")
    await add(profile, row)
    return row


async def find(database: Database, session_id: str, access: AccessScope = EVERYTHING) -> LiveSession:
    async with database.reading() as db:
        return await find_live_session(db, session_id, access=access)


@pytest.mark.databases("sqlite", "postgresql")
async def test_of_many_who_take_the_control_one_gets_it(database: Database, add: AddRow):
    session = await find(database, (await running(add)).session_id)
    controls = LiveControls(database=database, process=OWNER)
    taken = await asyncio.gather(*(controls.take(session, actor=f"key-{number}") for number in range(8)))
    (mine,) = filter(None, taken)
    assert (await find(database, session.session_id)).controller == mine.actor
    assert await controls.renew(mine)
    await controls.release(mine)
    assert not await controls.renew(mine)
    assert (await find(database, session.session_id)).controller is None
    assert await controls.take(session, actor="next") is not None


async def test_control_of_a_process_that_died_is_free_after_its_lease(database: Database, add: AddRow):
    session = await find(database, (await running(add)).session_id)
    dead = await LiveControls(database=database, process="dead", seconds=0).take(session, actor="ann")
    assert dead is not None
    controls = LiveControls(database=database, process=OWNER)
    taken = await controls.take(session, actor="bob")
    assert taken is not None
    assert not await controls.renew(dead)
    await controls.release(dead)  # frees nothing of the next one
    assert (await find(database, session.session_id)).controller == "bob"


async def test_process_is_found_by_the_lease_of_its_session(database: Database, add: AddRow):
    row = await running(add)
    assert (await find(database, row.session_id)).address is None
    old = Process(
        owner="old", machine="m", address="h:1", certificate="c", heartbeat_at=utc_now() - timedelta(hours=2)
    )
    await add(old)
    processes = LiveProcesses(database=database, process=OWNER, machine="machine", host="::1")
    for _ in range(2):
        await processes.beat(4444, "certificate")
    found = await find(database, row.session_id)
    assert (found.process, found.machine, found.address) == (OWNER, "machine", "[::1]:4444")
    async with database.reading() as db:
        assert await db.get(Process, "old") is None
    with pytest.raises(SessionNotFoundException):
        await find(database, row.session_id, AccessScope.from_lists([], ["bob"]))
    await processes.remove()
    assert (await find(database, row.session_id)).process is None


@pytest.mark.databases("postgresql")
async def test_look_at_a_session_is_one_statement_by_an_index(database: Database, add: AddRow):
    row = await running(add)
    with explained(database) as statements:
        await find(database, row.session_id)
    (statement,) = statements
    assert statement.scanned == set()


async def test_forgotten_controls_are_deleted(database: Database, add: AddRow):
    expired = LiveControl(session_id="s", controller="ann", lease_expires_at=utc_now() - timedelta(hours=2))
    await add(expired)
    await LiveProcesses(database=database, process=OWNER, machine="m", host="h").beat(1, "c")
    async with database.reading() as db:
        assert await db.get(LiveControl, "s") is None


def at(address: str, certificate: str, *, machine: str = "m") -> LiveSession:
    return LiveSession(
        session_id="s",
        account_id="anna_1",
        api_app="AIOTT1",
        profile_id="p",
        request_id="r",
        status=SessionStatus.IN_PROGRESS,
        stage=None,
        error_code=None,
        process=OWNER,
        machine=machine,
        address=address,
        certificate=certificate,
        controller=None,
    )


async def test_internal_address_knows_its_callers_and_they_know_it():
    tabs, secret = LiveTabs(), [b"secret"]
    server = LiveServer(tabs=tabs, passes=LivePasses(secret), process=OWNER, host="127.0.0.1", port=0)
    async with server.listening() as (port, certificate), made_up_browser() as browser:
        address = f"127.0.0.1:{port}"

        async def refusal(session: LiveSession, secrets: list[bytes]) -> str:
            with pytest.raises(RelayError) as raised:
                async with LiveRelay(passes=LivePasses(secrets), machine="m").open(session):
                    pass
            return str(raised.value)

        assert await refusal(at(address, certificate), secret) == "The session has no tab yet."
        with tabs.show("s", browser.tab):
            assert "INTERNAL_SECRET must be the same" in await refusal(at(address, certificate), [b"other"])
            foreign, _ = make_certificate()
            assert "SSLCertVerificationError" in await refusal(at(address, foreign), secret)
            assert "cannot be reached" in await refusal(at("127.0.0.1:9", certificate), secret)
            assert "SSLError" in await refusal(at(address, "no certificate"), secret)
            elsewhere = at(address, certificate, machine="other")
            assert "set INTERNAL_HOST" in await refusal(elsewhere, secret)
            async with LiveRelay(passes=LivePasses(secret), machine="m").open(
                at(address, certificate)
            ) as relay:
                received = [await relay.recv() for _ in range(2)]
                assert picture(1) in received
