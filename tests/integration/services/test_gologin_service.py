"""`running_profile`: a slot, a lease and a browser, and all three given back on any exit. Real browsers."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
import stamina
from sqlalchemy import select

from app.context import Context, open_context
from app.database import Database
from app.models import Profile, SessionStage, utc_now
from app.utils.exceptions import (
    AppException,
    ConcurrentProfileLimitException,
    GoLoginAPIException,
    LeaseLostException,
    ProfileInUseException,
    SeleniumConnectionException,
)
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from sandbox.config import SandboxInfo
from sandbox.devtools import command
from tests.fixtures.factories import new_profile
from tests.fixtures.sandbox import running
from tests.fixtures.settings import MakeSettings
from tests.fixtures.waiting import eventually

# Real browsers on one database: tests/integration/services/profiles/test_leases.py shows the leases on both.
pytestmark = pytest.mark.databases("sqlite")


@pytest.fixture(autouse=True)
def _no_waiting():
    with stamina.set_testing(True, attempts=1):
        yield


@pytest.fixture
async def known(database: Database, profile: ProfileInfo) -> str:
    """Id of a profile that both GoLogin and the table know."""
    async with database.transaction() as db:
        db.add(new_profile(profile_id=profile.id, account_id=profile.account))
    return profile.id


@pytest.fixture
async def second(database: Database, admin: SandboxAdmin) -> AsyncIterator[str]:
    """Id of another such profile."""
    made = await admin.add_profile("test_second")
    async with database.transaction() as db:
        db.add(new_profile(profile_id=made.id))
    yield made.id
    await admin.remove_profile("test_second")


async def is_free(database: Database, profile_id: str) -> bool:
    async with database.reading() as db:
        row = await db.scalar(select(Profile).where(Profile.profile_id == profile_id))
    return (row.in_use, row.lease_token, row.lease_owner, row.lease_expires_at) == (False, None, None, None)


async def all_given_back(context: Context, database: Database, admin: SandboxAdmin, profile_id: str) -> bool:
    nothing_runs = context.fleet.gologin.running_profiles == 0 and not context.fleet.gologin.is_full
    return nothing_runs and await is_free(database, profile_id) and await running(admin, profile_id) == []


def ignore(_stage: SessionStage) -> None:
    pass


@pytest.mark.databases("sqlite", long="postgresql")
async def test_profile_runs_under_a_lease_and_is_stopped_at_the_end(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, http: httpx.AsyncClient, known: str
):
    stages: list[SessionStage] = []
    async with sandbox_context.fleet.gologin.running_profile(known, report=stages.append) as browser:
        version = (await http.get(f"http://{browser.address}/json/version")).json()
        assert f"/{browser.major}." in version["Browser"]
        assert await running(admin, known) == [known]
        assert sandbox_context.fleet.gologin.running_profiles == 1
        assert not await is_free(database, known)
    assert stages == [SessionStage.PROFILE_STARTING]
    assert await all_given_back(sandbox_context, database, admin, known)


@pytest.mark.parametrize("product", ["gologin", "adspower"])
async def test_a_cookie_that_was_set_just_before_the_end_is_kept(
    sandbox_settings: MakeSettings, info: SandboxInfo, known: str, product: str
):
    """A sign-in is a cookie; the profile browsers kill a browser that is still closing when they are told to stop."""
    cookie = {"name": "sign-in", "value": secrets.token_hex(8), "url": "https://kept.example/"}
    settings = sandbox_settings(profile_browser=product, adspower_url=info.adspower_url)
    async with open_context(settings) as context:
        async with context.fleet.gologin.running_profile(known, report=ignore) as browser:
            lasting = {**cookie, "expires": (utc_now() + timedelta(days=9)).timestamp()}
            await command(browser.ws_url, "Storage.setCookies", {"cookies": [lasting]})
        async with context.fleet.gologin.running_profile(known, report=ignore) as browser:
            found = (await command(browser.ws_url, "Storage.getCookies"))["cookies"]
    assert cookie["value"] in [each["value"] for each in found if each["name"] == cookie["name"]]


async def test_error_in_the_middle_stops_the_profile(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, known: str
):
    with pytest.raises(KeyError):
        async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
            raise KeyError
    assert await all_given_back(sandbox_context, database, admin, known)


async def test_cancellation_stops_the_profile(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, known: str
):
    entered = asyncio.Event()

    async def work() -> None:
        async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    async with asyncio.timeout(60):
        await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await all_given_back(sandbox_context, database, admin, known)


async def test_a_browser_that_died_is_stopped_all_the_same(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, known: str
):
    async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
        await admin.kill_browser(known)
    assert await all_given_back(sandbox_context, database, admin, known)


@pytest.mark.databases("sqlite", long="postgresql")
async def test_profile_without_a_free_slot_waits_and_reports_it(
    sandbox_settings: MakeSettings, database: Database, admin: SandboxAdmin, known: str, second: str
):
    waits, stages = asyncio.Event(), []

    def report(stage: SessionStage) -> None:
        stages.append(stage)
        waits.set()

    async def run_second(context: Context) -> int:
        async with context.fleet.gologin.running_profile(second, report=report):
            return len(await running(admin, known, second))

    async with open_context(sandbox_settings(max_concurrent_profiles=1)) as context:
        async with context.fleet.gologin.running_profile(known, report=ignore):
            task = asyncio.create_task(run_second(context))
            async with asyncio.timeout(60):
                await waits.wait()
            assert stages == [SessionStage.WAITING_FOR_SLOT]
            with pytest.raises(ConcurrentProfileLimitException):
                async with context.fleet.gologin.running_profile(second, report=ignore, wait=False):
                    pass
        async with asyncio.timeout(30):
            assert await task == 1
        assert stages == [SessionStage.WAITING_FOR_SLOT, SessionStage.PROFILE_STARTING]
        assert await all_given_back(context, database, admin, second)


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_profile_runs_once_whoever_asks(
    sandbox_context: Context,
    sandbox_settings: MakeSettings,
    database: Database,
    admin: SandboxAdmin,
    known: str,
):
    async with open_context(sandbox_settings()) as other:
        async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
            for context in (other, sandbox_context):
                with pytest.raises(ProfileInUseException):
                    async with context.fleet.gologin.running_profile(known, report=ignore):
                        pass
            assert await running(admin, known) == [known]
        assert await all_given_back(other, database, admin, known)


@pytest.mark.databases("sqlite", long="postgresql")
async def test_the_browser_of_a_process_that_died_is_stopped_before_its_profile_runs_again(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, http: httpx.AsyncClient, known: str
):
    gologin, settings = sandbox_context.fleet.gologin, sandbox_context.settings
    started = await http.post(
        f"{settings.gologin_local_url}/browser/start-profile", json={"profileId": known, "sync": True}
    )
    async with database.transaction() as db:
        row = await db.scalar(select(Profile).where(Profile.profile_id == known))
        row.in_use, row.lease_token, row.ws_url = True, "of-a-dead-process", started.json()["wsUrl"]
        row.lease_owner = f"{settings.machine_name}:1"
        row.lease_expires_at = utc_now() - timedelta(seconds=1)
    with pytest.raises(ProfileInUseException):
        async with gologin.running_profile(known, report=ignore):
            pass
    assert await gologin.stop_orphans() == 1
    assert await all_given_back(sandbox_context, database, admin, known)
    async with gologin.running_profile(known, report=ignore):
        pass


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_lost_lease_stops_the_browser_and_leaves_the_new_holders_lease(
    sandbox_settings: MakeSettings, database: Database, admin: SandboxAdmin, known: str
):
    async with open_context(sandbox_settings(lease_seconds=0.3)) as context:
        with pytest.raises(LeaseLostException):
            async with context.fleet.gologin.running_profile(known, report=ignore):
                async with database.transaction() as db:
                    row = await db.scalar(select(Profile).where(Profile.profile_id == known))
                    row.lease_token = "of-another-process"
                async with asyncio.timeout(60):
                    await asyncio.Event().wait()
    assert await running(admin, known) == []
    async with database.reading() as db:
        assert await db.scalar(select(Profile.lease_token)) == "of-another-process"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "status", "status": 500}, GoLoginAPIException),
        ({"kind": "no_ws_url"}, GoLoginAPIException),
        ({"kind": "html", "status": 200}, GoLoginAPIException),
        ({"kind": "drop_after"}, GoLoginAPIException),
        ({"kind": "start_then_kill"}, SeleniumConnectionException),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
async def test_a_start_that_fails_is_stopped_again(
    sandbox_context: Context,
    database: Database,
    admin: SandboxAdmin,
    known: str,
    profile: ProfileInfo,
    fault: dict[str, object],
    error: type[AppException],
):
    await admin.set_fault("local.start", **fault)
    with pytest.raises(error):
        async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
            pass
    assert await admin.requests(endpoint="local.stop", account=profile.account)
    assert await all_given_back(sandbox_context, database, admin, known)


async def freed_by_the_sweep(context: Context, database: Database, admin: SandboxAdmin, known: str) -> None:
    """Check that the lease stays until the grace of a late browser is over; the slot is free at once."""
    assert (context.fleet.gologin.running_profiles, context.fleet.gologin.is_full) == (0, False)
    assert not await is_free(database, known)
    await eventually(context.fleet.gologin.stop_orphans)
    assert await all_given_back(context, database, admin, known)


@pytest.mark.parametrize("kind", ["hang", "start_hang_running"])
async def test_a_start_that_hangs_is_given_up_and_stopped_again(
    sandbox_settings: MakeSettings,
    database: Database,
    admin: SandboxAdmin,
    known: str,
    profile: ProfileInfo,
    kind: str,
):
    await admin.set_fault("local.start", kind)
    async with open_context(sandbox_settings(profile_start_timeout=1)) as context:
        with pytest.raises(GoLoginAPIException, match="timeout"):
            async with context.fleet.gologin.running_profile(known, report=ignore):
                pass
        assert await admin.requests(endpoint="local.stop", account=profile.account)
        await freed_by_the_sweep(context, database, admin, known)


async def test_a_caller_may_give_a_start_less_time_and_no_more(
    sandbox_settings: MakeSettings, database: Database, admin: SandboxAdmin, known: str
):
    await admin.set_fault("local.start", "hang")
    async with open_context(sandbox_settings(profile_start_timeout=2)) as context:
        for asked, used in ((0.5, "0.5"), (60, "2")):
            with pytest.raises(GoLoginAPIException, match=f"no answer within {used} seconds"):
                async with context.fleet.gologin.running_profile(known, report=ignore, start_timeout=asked):
                    pass
            await freed_by_the_sweep(context, database, admin, known)


async def test_a_browser_that_comes_up_after_its_start_was_cancelled_is_stopped(
    sandbox_settings: MakeSettings,
    database: Database,
    admin: SandboxAdmin,
    known: str,
    profile: ProfileInfo,
    http: httpx.AsyncClient,
):
    await admin.set_fault("local.start", "hang", times=1)
    async with open_context(sandbox_settings(profile_start_timeout=2)) as context:
        starting = asyncio.Event()

        async def work() -> None:
            async with context.fleet.gologin.running_profile(known, report=lambda _stage: starting.set()):
                pass

        task = asyncio.create_task(work())
        async with asyncio.timeout(60):
            await starting.wait()
        await eventually(lambda: admin.requests(endpoint="local.start", account=profile.account))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        late = {"profileId": known, "sync": True}
        url = f"{context.settings.gologin_local_url}/browser/start-profile"
        assert (await http.post(url, json=late)).is_success
        with pytest.raises(ProfileInUseException):
            async with context.fleet.gologin.running_profile(known, report=ignore):
                pass
        await freed_by_the_sweep(context, database, admin, known)


async def test_a_stop_that_fails_hides_no_result_and_the_browser_goes_all_the_same(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, known: str
):
    await admin.set_fault("local.stop", "status", status=500)
    async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
        pass
    await eventually(lambda: all_given_back(sandbox_context, database, admin, known))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        pytest.param(
            "ws://127.0.0.1:99999/devtools/browser/x", "host or port that cannot be", marks=pytest.mark.long
        ),
        ("ws://127.0.0.1:1/devtools/browser/x", "Cannot connect to browser"),
        ("ws://169.254.169.254:80/devtools/browser/x", "on another host, 169.254.169.254"),
        pytest.param("ws://127.0.0.1:80@evil.invalid:80/x", "no ws:// address", marks=pytest.mark.long),
        pytest.param("ws://127.0.0.1:80/\x00", "no address", marks=pytest.mark.long),
    ],
)
async def test_a_browser_with_an_unusable_address_is_stopped(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, known: str, address: str, words: str
):
    await admin.set_fault("local.start", "odd_address", body=address)
    with pytest.raises(AppException, match=words):
        async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
            pass
    assert await all_given_back(sandbox_context, database, admin, known)


async def test_a_browser_with_an_unusable_address_that_cannot_be_stopped_is_quarantined(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, known: str
):
    await admin.set_fault("local.start", "odd_address", body="ws://127.0.0.1:1/devtools/browser/x")
    await admin.set_fault("local.stop", "status", status=500)
    with pytest.raises(SeleniumConnectionException):
        async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
            pass
    async with database.reading() as db:
        row = await db.scalar(select(Profile).where(Profile.profile_id == known))
    assert row.quarantined_at is not None


async def test_refused_start_has_gologins_message(sandbox_context: Context, admin: SandboxAdmin, known: str):
    body = {"status": "error", "message": "Profile is running on another device"}
    await admin.set_fault("local.start", "status", status=200, body=body)
    with pytest.raises(GoLoginAPIException, match="Profile is running on another device"):
        async with sandbox_context.fleet.gologin.running_profile(known, report=ignore):
            pass
