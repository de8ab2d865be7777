"""Health and encryption keys on the operators' page: no secret is shown; the breaker is closed as over the API."""

import pytest
from sqlalchemy import select, update

from app.models import AuthorizationSession, Credential, Event, EventType, SessionStatus, WorkerRun, utc_now
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from app.services.tokens import key_audit
from tests.fixtures.api import API_KEY, Api, OpenApi
from tests.fixtures.costs import explained
from tests.fixtures.dashboard import PageBrowser, assert_needs, page_browser, shown_text
from tests.fixtures.factories import new_profile, new_session, new_tokens

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def store_tokens(api: Api, *accounts: str) -> None:
    async with api.context.database.transaction() as db:
        for account in accounts:
            await api.context.tokens.credentials.store(
                db,
                account_id=account,
                api_app="AIOTT1",
                provider_user_id="17",
                tokens=new_tokens(),
                session_id="s",
            )


async def test_health_shows_processes_and_closes_the_breaker(api: Api, browser: PageBrowser):
    now = utc_now()
    async with api.context.database.transaction() as db:
        row = new_session(new_profile(), status=SessionStatus.IN_PROGRESS)
        row.lease_owner, row.lease_expires_at = "machine-1:7:abc", now
        run = WorkerRun(name="sync", next_run_at=now, last_success_at=now)
        run.lease_owner, run.lease_expires_at = "machine-2:8:def", now
        db.add_all([row, run])
    await api.context.fleet.gate.reserve()
    await api.context.fleet.gate.open_breaker("HTTP <429>")
    page = await browser.get("/ui/health")
    text = shown_text(page)
    assert "ready This process does its work." in text
    assert "GoLogin's breaker is open since" in text
    assert "machine-1:7:abc 1 –" in text
    assert "machine-2:8:def 0 sync" in text
    assert "HTTP <429>" in text
    assert "<429>" not in page.text
    assert "Close the breaker of GoLogin's cloud API?" in shown_text(await browser.get("/ui/health/breaker"))
    assert (await api.context.fleet.gate.state()).is_open
    assert "The breaker is closed;" in await browser.does("/ui/health/breaker")
    assert not (await api.context.fleet.gate.state()).is_open
    assert "was closed already" in await browser.does("/ui/health/breaker")
    async with api.context.database.reading() as db:
        types = await db.scalars(
            select(Event.actor).where(Event.event_type == EventType.GOLOGIN_BREAKER_CLOSED)
        )
        assert types.all() == ["bootstrap"]


async def test_doctor_and_machines_are_shown(api: Api, browser: PageBrowser):
    assert "No machine with workers has reported yet." in await browser.shows("/ui/health")
    assert await api.context.workers.get("monitor").run_once()
    await store_tokens(api, "anna")
    (key_id,) = api.context.tokens.vault.key_ids
    machine = api.context.settings.machine_name
    text = shown_text(await browser.get("/ui/health"))
    assert f"Machines Machine Last heartbeat Slots in use Workers Event loop, lag Version {machine}" in text
    assert "0 of 10" in text
    assert "ok schema: up to date" in text
    assert "ok stored tokens: the keys of all 2 are in the settings;" in text
    assert f"ok key {key_id}: 2 stored values, 0 spilled files; it writes" in text
    async with api.context.database.transaction() as db:
        await db.execute(update(Credential).values(access_token="gone:AAAA"))
    folder = api.context.settings.token_spill_folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.sealed").write_text("gone:AAAA")
    text = shown_text(await browser.get("/ui/health"))
    assert (
        "problem stored tokens: 1 need keys that are missing; put them back into ENCRYPTION_KEYS: gone"
        in text
    )
    assert f"problem spilled tokens: opened by no key in {folder}: a.sealed;" in text


@pytest.mark.databases("sqlite")
async def test_settings_are_shown_without_secrets(open_sqlite_api: OpenApi):
    secrets = {
        "gologin_api_token": "token-of-gologin-1234",
        "gologin_local_url": "http://user:pass-word@127.0.0.1:9",
        "oauth_apps": {
            "APP": {
                "client_id": "client-id-1234",
                "client_secret": "client-secret-1234",
                "redirect_uri": "http://localhost/callback",
            }
        },
        "machine_name": "machine-1",
    }
    async with open_sqlite_api(workers=False, **secrets) as api, page_browser(api) as browser:
        page = await browser.get("/ui/health")
        text = shown_text(page)
        for secret in ("token-of-gologin", "pass-word", "client-id-1234", "client-secret", API_KEY):
            assert secret not in page.text
        assert "GOLOGIN_API_TOKEN set changed" in text
        assert "GOLOGIN_LOCAL_URL http://[masked]@127.0.0.1:9 changed" in text
        assert "APP (oauth2 of x) changed" in text
        assert "MACHINE_NAME machine-1 changed" in text
        assert "POSTGRES_PASSWORD not set as by default" in text
        assert "MAX_CONCURRENT_PROFILES" in text


@pytest.mark.databases("sqlite")
async def test_views_and_actions_need_their_scopes(api: Api):
    await assert_needs(api, Scope.FLEET_READ, ["/ui/health"])
    await assert_needs(
        api, Scope.ADMIN, ["/ui/encryption-keys", "/ui/health/breaker"], ["/ui/health/breaker"]
    )
    reader = (await api.key(Scope.FLEET_READ, name="reader"))["X-API-Key"]
    async with page_browser(api, reader) as browser:
        text = shown_text(await browser.get("/ui/health"))
        assert "Settings need a key with the scope admin" in text
        assert "What doctor finds needs a key with the scope admin" in text
        assert "schema: up to date" not in text
        assert "MAX_CONCURRENT_PROFILES" not in text
    key = (await api.key(Scope.ADMIN, access=AccessScope.from_lists(["AIOTT1"], [])))["X-API-Key"]
    async with page_browser(api, key) as browser:
        for path in ("/ui/health", "/ui/encryption-keys", "/ui/health/breaker"):
            refused = await browser.get(path)
            assert (refused.status_code, "OUT_OF_REACH" in refused.text) == (403, True), path
        assert (await browser.post("/ui/health/breaker")).status_code == 403


async def test_encryption_keys_are_counted_and_missing_ones_named(api: Api, browser: PageBrowser):
    await store_tokens(api, "anna", "bert")
    (key_id,) = api.context.tokens.vault.key_ids
    page = await browser.get("/ui/encryption-keys")
    async with api.context.database.reading() as db:
        counted = await key_audit.count_oldest(db)
    audited = await key_audit.audit(api.context.database, api.context.tokens.vault)
    assert (counted.values, counted.rows, counted.is_whole) == (audited.values, 2, True)
    assert f"{key_id} writes {counted.values[key_id]} 0" in shown_text(page)
    async with api.context.database.transaction() as db:
        await db.execute(
            update(Credential).where(Credential.account_id == "anna").values(access_token="gone:AAAA")
        )
    assert "need keys that the settings do not have: gone." in await browser.shows("/ui/encryption-keys")
    async with api.context.database.reading() as db:
        few = await key_audit.count_oldest(db, limit=1)
    assert (few.rows, few.is_whole, few.values["gone"]) == (1, False, 1)


async def test_statements_do_not_depend_on_the_rows(postgresql_api: Api):
    api = postgresql_api
    async with page_browser(api) as browser:

        async def count(path: str) -> int:
            with explained(api.context.database) as seen:
                await browser.shows(path)
            return len(seen)

        paths = ("/ui/health", "/ui/encryption-keys", "/ui/apps")
        await store_tokens(api, "anna")
        few = [await count(path) for path in paths]
        await store_tokens(api, *(f"a{number}" for number in range(20)))
        async with api.context.database.transaction() as db:
            rows = [new_session(new_profile(), status=SessionStatus.IN_PROGRESS) for _ in range(5)]
            for number, row in enumerate(rows):
                row.lease_owner, row.lease_expires_at = f"machine-{number}:1:a", utc_now()
            db.add_all(rows)
        assert [await count(path) for path in paths] == few
        assert few == [22, 3, 2]
        async with api.context.database.reading() as db:
            assert len((await db.scalars(select(AuthorizationSession.id))).all()) == 5
