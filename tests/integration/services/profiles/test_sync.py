"""The profiles table follows GoLogin's list, and a broken answer takes nothing away."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
import stamina
from sqlalchemy import func, select

from app.clients.browsers.profile_browser import ProfilePage
from app.context import Context, open_context
from app.database import Database
from app.models import Event, Profile
from app.utils.exceptions import GoLoginAPIException
from sandbox.admin import ProfileInfo
from sandbox.admin_client import SandboxAdmin
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


@pytest.fixture(autouse=True)
def _no_waiting():
    with stamina.set_testing(True, attempts=2):
        yield


@pytest.fixture
async def extra(admin: SandboxAdmin) -> AsyncIterator[ProfileInfo]:
    """A profile that the test removes."""
    made = await admin.add_profile("test_extra")
    yield made
    with suppress(httpx.HTTPStatusError):
        await admin.remove_profile("test_extra")


async def find(database: Database, profile_id: str) -> Profile | None:
    async with database.reading() as db:
        return await db.scalar(select(Profile).where(Profile.profile_id == profile_id))


async def active(database: Database) -> int:
    async with database.reading() as db:
        return await db.scalar(select(func.count()).where(Profile.is_active)) or 0


@pytest.mark.databases("sqlite")
async def test_all_pages_are_read(sandbox_context: Context, database: Database, admin: SandboxAdmin):
    result = await sandbox_context.fleet.gologin.sync_profiles()
    assert (result.pages, result.seen, result.gone) == (3, 65, 0)
    assert await active(database) == 65
    assert await sandbox_context.fleet.gologin.sync_profiles()
    assert await active(database) == 65


async def test_a_profile_is_found_by_its_account(
    sandbox_context: Context, database: Database, profile: ProfileInfo
):
    await sandbox_context.fleet.gologin.sync_profiles()
    row = await find(database, profile.id)
    assert (row.account_id, row.is_active, row.in_use) == (profile.account, True, False)
    assert row.last_synced is not None


@pytest.mark.databases("sqlite")
async def test_no_proxy_password_is_stored(
    sandbox_context: Context, database: Database, http: httpx.AsyncClient
):
    settings = sandbox_context.settings
    token = settings.gologin_api_token.get_secret_value()
    answer = await http.get(
        f"{settings.gologin_api_url}/browser/v2", headers={"Authorization": f"Bearer {token}"}
    )
    passwords = {row["proxy"]["password"] for row in answer.json()["profiles"] if row.get("proxy")} - {
        "",
        None,
    }
    assert passwords
    await sandbox_context.fleet.gologin.sync_profiles()
    async with database.reading() as db:
        stored = str(list(await db.scalars(select(Profile.profile_metadata))))
    assert not [password for password in passwords if password in stored]


async def test_a_renamed_profile_belongs_to_its_new_account(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, profile: ProfileInfo
):
    await sandbox_context.fleet.gologin.sync_profiles()
    await admin.rename_profile(profile.account, "  @New_Name  ")
    await sandbox_context.fleet.gologin.sync_profiles()
    row = await find(database, profile.id)
    assert (row.profile_name, row.account_id) == ("@New_Name", "new_name")


async def test_a_profile_that_is_gone_becomes_inactive_and_comes_back(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, extra: ProfileInfo
):
    await sandbox_context.fleet.gologin.sync_profiles()
    await admin.remove_profile("test_extra")
    assert (await sandbox_context.fleet.gologin.sync_profiles()).gone == 1
    assert not (await find(database, extra.id)).is_active
    assert await active(database) == 65
    assert (await sandbox_context.fleet.gologin.sync_profiles()).gone == 0


@pytest.mark.databases("sqlite", "postgresql")
async def test_a_sync_keeps_the_lease_of_a_running_profile(
    sandbox_context: Context, database: Database, profile: ProfileInfo
):
    gologin = sandbox_context.fleet.gologin
    await gologin.sync_profiles()
    async with sandbox_context.fleet.leases.hold(profile.id):
        held = await find(database, profile.id)
        await gologin.sync_profiles()
        row = await find(database, profile.id)
        assert (row.in_use, row.lease_token) == (True, held.lease_token)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"kind": "status", "status": 500}, "(500)"),
        ({"kind": "status", "status": 401}, "(401)"),
        ({"kind": "html"}, "(502): Error Bad gateway"),
        ({"kind": "html", "status": 200}, "(200)"),
        ({"kind": "html_1015"}, "(429): the rate limit was reached"),
        ({"kind": "rate_limited"}, "(429)"),
        ({"kind": "truncated_json"}, "(200)"),
        ({"kind": "empty_body"}, "(200)"),
        ({"kind": "drop"}, "(disconnected)"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
async def test_a_broken_answer_is_an_error_and_takes_nothing_away(
    sandbox_context: Context,
    database: Database,
    admin: SandboxAdmin,
    extra: ProfileInfo,
    fault: dict[str, object],
    said: str,
):
    await sandbox_context.fleet.gologin.sync_profiles()
    await admin.remove_profile("test_extra")
    await admin.set_fault("gologin.list", **fault)
    with pytest.raises(GoLoginAPIException) as caught:
        await sandbox_context.fleet.gologin.sync_profiles()
    assert said in caught.value.message
    assert "<" not in caught.value.message
    assert await active(database) == 66
    assert (await find(database, extra.id)).is_active


@pytest.mark.databases("sqlite")
async def test_a_429_is_never_asked_again(sandbox_context: Context, admin: SandboxAdmin):
    await admin.clear_stats()
    await admin.set_fault("gologin.list", "rate_limited")
    with pytest.raises(GoLoginAPIException):
        await sandbox_context.fleet.gologin.sync_profiles()
    assert len(await admin.requests(endpoint="gologin.list")) == 1


@pytest.mark.databases("sqlite")
async def test_a_transient_error_is_asked_again(sandbox_context: Context, admin: SandboxAdmin):
    await admin.set_fault("gologin.list", "status", status=503, times=1)
    assert (await sandbox_context.fleet.gologin.sync_profiles()).seen == 65


@pytest.mark.databases("sqlite")
async def test_an_api_that_does_not_answer_is_given_up(sandbox_settings: MakeSettings, admin: SandboxAdmin):
    await admin.set_fault("gologin.list", "hang")
    async with open_context(sandbox_settings(gologin_api_timeout=0.1)) as context:
        with pytest.raises(GoLoginAPIException, match=r"\(timeout\): no answer within 0.1 seconds"):
            await context.fleet.gologin.sync_profiles()


@pytest.mark.databases("sqlite")
async def test_wrong_token_is_reported_without_its_value(sandbox_settings: MakeSettings):
    async with open_context(sandbox_settings(gologin_api_token="wrong-token-value")) as context:
        with pytest.raises(GoLoginAPIException, match=r"\(401\)") as caught:
            await context.fleet.gologin.sync_profiles()
    assert "wrong-token-value" not in caught.value.message


async def test_a_complete_pass_is_an_event(sandbox_context: Context, database: Database):
    await sandbox_context.fleet.gologin.sync_profiles()
    async with database.reading() as db:
        event = (await db.scalars(select(Event).where(Event.event_type == "profiles.synced"))).one()
    counts = {name: event.data[name] for name in ("pages", "seen", "created", "gone", "conflicts")}
    assert counts == {"pages": 3, "seen": 65, "created": 65, "gone": 0, "conflicts": 0}


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("pages_read", [0, 2])
async def test_a_list_that_breaks_off_takes_nothing_away(
    sandbox_context: Context, database: Database, pages_read: int
):
    await sandbox_context.fleet.gologin.sync_profiles()
    whole = sandbox_context.fleet.client.list_profiles

    async def breaking_off(page: int) -> ProfilePage:
        return await whole(page) if page <= pages_read else ProfilePage(profiles=[], total=65)

    sandbox_context.fleet.client.list_profiles = breaking_off
    with pytest.raises(GoLoginAPIException, match=f"broke off after {pages_read * 30} of 65"):
        await sandbox_context.fleet.gologin.sync_profiles()
    assert await active(database) == 65


@pytest.mark.parametrize("bad_id", ["with\x00nul", "x" * 65, "half\ud800", "", 7, None, "line\nbreak"])
async def test_a_row_that_cannot_be_stored_is_skipped_and_named(
    sandbox_context: Context, database: Database, admin: SandboxAdmin, bad_id: object
):
    rows = [
        {"id": bad_id, "name": "bad"},
        {"id": "good", "name": "n\x00\ud800", "notes": "\x00", "tags": 7},
        "row",
    ]
    await admin.set_fault("gologin.list", "status", status=200, body=json.dumps({"profiles": rows}), times=1)
    await admin.set_fault("gologin.list", "status", status=200, body={"profiles": []})
    result = await sandbox_context.fleet.gologin.sync_profiles()
    assert (result.seen, result.skipped, len(result.skipped_rows)) == (1, 2, 2)
    assert (await find(database, "good")).profile_name == "n"
    async with database.reading() as db:
        event = (await db.scalars(select(Event).where(Event.event_type == "profiles.synced"))).one()
    assert event.data["skipped_rows"][0].startswith("row 1: ")
