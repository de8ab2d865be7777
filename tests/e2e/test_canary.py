"""Unique secrets are planted everywhere, all is done that can be done with them, and then they are looked for."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import make_url

from app.config import Settings, load_settings
from app.models import utc_now
from app.utils.crypto import generate_key
from sandbox.modules import start_module
from sandbox.process import SandboxProcess
from tests.e2e.canary import NOTHING, Canaries, LeakLog, api_key, password, planted_fields, secret_fields
from tests.e2e.canary_places import (
    listening,
    look_at_files,
    look_at_tables,
    plant_issued,
    watching_children,
)
from tests.e2e.canary_sweep import COMMANDS, ONCE, RouteSweep
from tests.e2e.children import commands
from tests.e2e.harness import WAIT, open_harness
from tests.e2e.page_content import SINGLE_SIGN_ON
from tests.fixtures.live import TAKE, viewer
from tests.fixtures.receiver import Received, Receiver, reply, running_receiver
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = (
    "/ui",
    *(
        f"/ui/{name}"
        for name in ("sessions", "accounts", "profiles", "batches", "events", "health", "webhooks")
    ),
    *(f"/ui/{name}" for name in ("keys", "apps", "encryption-keys", "errors", "sign-in")),
)
WRONG = "WRONG"
"""An app like AIOTT1 whose secret is wrong."""


def planted_settings(sandbox: SandboxProcess, canaries: Canaries, database_url: str) -> dict[str, Any]:
    """A secret in each setting that may hold one."""
    first, second, redis, postgres, database, wrong = (
        generate_key(),
        generate_key(),
        *(password() for _ in range(4)),
    )
    internal, single_sign_on = password() * 3, password()
    apps = {name: app.model_dump() for name, app in sandbox.info.apps.items()}
    apps[WRONG] = apps["AIOTT1"] | {"client_secret": wrong}
    canaries.plant("encryption key", first, second)
    canaries.plant("Redis password", redis)
    canaries.plant("internal secret", internal)
    canaries.plant("PostgreSQL password", postgres, database)
    canaries.plant("GoLogin token", sandbox.info.gologin_api_token)
    canaries.plant("client secret", *(app["client_secret"] for app in apps.values() if app["client_secret"]))
    canaries.plant("client secret", single_sign_on)
    canaries.plant("proxy user", "proxy-sandbox_")
    canaries.plant("proxy password", "proxy-password-")
    return {
        "encryption_keys": f"one:{first},two:{second}",
        "rate_limit_storage": f"redis://:{quote(redis, safe='')}@127.0.0.1:9/0",
        "postgres_password": postgres,
        "internal_secret": internal,
        "database_url": with_password(database_url, database),
        "oauth_apps": json.dumps(apps),
        "oidc_client_secret": single_sign_on,
        **SINGLE_SIGN_ON,
    }


def with_password(database_url: str, secret: str) -> str:
    """The suite's server believes any; SQLite has none."""
    if database_url.startswith("sqlite"):
        return database_url
    return make_url(database_url).set(password=secret).render_as_string(hide_password=False)


@asynccontextmanager
async def opened(
    sandbox: SandboxProcess, folder: Path, database_url: str, workplace: Path
) -> AsyncIterator[tuple[RouteSweep, Receiver]]:
    canaries = Canaries()
    settings = planted_settings(sandbox, canaries, database_url) | {
        "log_level": "DEBUG",
        "max_concurrent_profiles": 4,
        "auth_failures_per_minute": 1000,
        "webhook_allow_private_addresses": True,
        "webhook_retry_waits": [0.05] * 10,
    }
    async with (
        open_harness(
            sandbox, folder, start_module=start_module, **settings
        ) as harness,  # command lines are read
        commands(workplace) as run,
        running_receiver() as receiver,
    ):
        canaries.plant("bootstrap key", harness.key)
        sweep = RouteSweep(harness, run, LeakLog(canaries))
        try:
            yield sweep, receiver
        finally:
            await sweep.close()


@pytest.mark.begin_early
@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
async def test_no_secret_leaves_its_place(
    sandbox: SandboxProcess, folder: Path, database_url: str, tmp_path: Path, unused_accounts: Iterator[str]
):
    before = await sandbox.admin.issued()
    async with opened(sandbox, folder, database_url, tmp_path / "commands") as (sweep, receiver):
        await refused_starts(sweep)
        async with listening(sweep), watching_children(sweep):
            await webhooks_fail(sweep, receiver)
            await authorizations(sweep, unused_accounts)
        await callers_keys(sweep)
        await operator_signs_in(sweep)
        await person_types(sweep, next(unused_accounts))
        await gologin_refuses(sweep)
        await tokens_come_and_go(sweep, tmp_path, next(unused_accounts))
        sweep.values["new_account"] = next(unused_accounts)
        sweep.values["new_name"] = "made on the sweep"
        await sweep.every_route()
        await other_commands(sweep, tmp_path)
        plant_issued(sweep.canaries, before, await sandbox.admin.issued())
        await look_at_tables(sweep)
        look_at_files(sweep.leak_log, sweep.harness.folder, tmp_path)
        await sweep.harness.service.stop()  # closes the database: the write-ahead log is written back
        look_at_files(sweep.leak_log, sweep.harness.folder, tmp_path)
        assert sweep.leak_log.read() == []
        everything = {(f"output of {name}", kind) for name, kinds in COMMANDS.items() for kind in kinds}
        routes = {(name, kind) for name, kinds in ONCE.items() for kind in kinds}
        seen = sweep.leak_log.shown | {
            (place.partition(" (")[0], kind) for place, kind in sweep.leak_log.shown
        }
        assert (everything | routes) - seen == set(), "the search does not find what is there"


async def refused_starts(sweep: RouteSweep) -> None:
    """Settings that cannot be, each with a secret in it; of a new secret setting it must be said here what it holds."""
    unreachable, wrong = password(), password()
    sweep.canaries.plant("PostgreSQL password", unreachable)
    sweep.canaries.plant("wrong setting", wrong)
    postgresql = f"postgresql+psycopg://user:{quote(unreachable, safe='')}@127.0.0.1:9/none"
    wanted = set(secret_fields(Settings))
    names = {name.partition(".")[0] for name in wanted}
    given = {name: sweep.harness.environment.get(name.upper(), "change-me") for name in names}
    urls = {"database_url": postgresql, "database_direct_url": postgresql}
    settings = load_settings(env_file=None, **SINGLE_SIGN_ON | given | urls)
    assert set(planted_fields(settings, sweep.canaries)) == wanted, "plant a canary in each secret setting"
    for command in ("serve", "doctor"):
        await sweep.command(command, code=1, DATABASE_URL=postgresql, DATABASE_DIRECT_URL=postgresql)
    impossible = {
        "DATABASE_URL": f"postgresql+psycopg://user:unquoted@{wrong}@127.0.0.1:9/none",
        "DATABASE_DIRECT_URL": f"postgresql+psycopg://user:unquoted@{wrong}@127.0.0.1:9/none",
        "RATE_LIMIT_STORAGE": f"redis://:{wrong}@127.0.0.1:9/0",
        "ENCRYPTION_KEYS": f"one:{wrong}",
        "OAUTH_APPS": f'{{"A": {{"client_id": "a", "client_secret": ["{wrong}"]}}}}',
        "PORT": wrong,
    }
    told = (await sweep.ended("serve", code=2, **impossible)).problems
    assert all(setting in told for setting in impossible), told
    await sweep.command("doctor", code=1, OAUTH_APPS=f'{{"A": {{"client_secret": "{wrong}"')
    await sweep.command("serve", code=2, ENVIRONMENT="production", API_KEY="change-me")


async def operator_signs_in(sweep: RouteSweep) -> None:
    """With a wrong key, the right one, and a link, used twice; then each view."""
    url, own = sweep.harness.service.url, {"Sec-Fetch-Site": "same-origin"}
    ticket = (await sweep.command("ui-link", "--address", url)).strip().partition("#")[2]
    wrong = api_key()
    sweep.canaries.plant("sign-in ticket", ticket)
    sweep.canaries.plant("wrong API key", wrong)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=WAIT) as http:
        for path, form, status in (
            ("/ui/sign-in", {"key": wrong}, 401),
            ("/ui/sign-in", {"key": sweep.harness.key}, 303),
            ("/ui/enter", {"ticket": ticket}, 303),
            ("/ui/enter", {"ticket": ticket}, 401),
        ):
            answer = await http.post(path, data=form, headers=own)
            assert answer.status_code == status
            sweep.leak_log.write(f"page of {path}", answer.content)
            sweep.canaries.plant("sign-in id", *http.cookies.values())
        for path in PAGES:
            answer = await http.get(path)
            assert answer.status_code == 200
            shown = {"webhook URL"} if path == "/ui/webhooks" else NOTHING
            sweep.leak_log.write(f"page of {path}", answer.content, allowed=shown)
            sweep.leak_log.write(f"headers of {path}", str(answer.headers.raw))


async def person_types(sweep: RouteSweep, account: str) -> None:
    """A person signs an account in through the live view; what is typed reaches the page and nothing else."""
    harness, typed = sweep.harness, [password() for _ in range(3)]
    sweep.canaries.plant("what a person types", *typed)
    await harness.admin.set_fault("provider.authorize", "login_form", account=account, body=typed[0], times=2)
    session = await harness.authorize(account)
    assert session["error_code"] == "LOGIN_REQUIRED"
    session_id = session["session_id"]
    await sweep.data("resumeAuthorization", "POST", f"/authorize/{session_id}/resume")
    url = harness.service.url
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=WAIT) as http:
        await http.post("/ui/sign-in", data={"key": harness.key}, headers={"Sec-Fetch-Site": "same-origin"})
        cookie = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
    headers = {"Cookie": cookie, "Origin": url}
    async with viewer(url, session_id, headers) as careless:
        await careless.does(type=typed[2])  # is no act, and ends the view
        await careless.socket.wait_closed()
    async with viewer(url, session_id, headers) as person:
        await eventually(lambda: person.frames and person.state.get("waits"))
        await person.does(type="text", text=typed[1])  # is dropped without the control
        await person.socket.send(TAKE)
        await eventually(lambda: person.state["is_mine"])
        await person.presses("Tab")
        await person.presses(*account)
        await person.presses("Tab")
        await person.does(type="text", text=typed[0])
        await person.presses("Enter")
        await eventually(lambda: person.end)
        sweep.leak_log.write("a live view", json.dumps(person.states))
    assert (await harness.ended(session_id))["status"] == "completed"


async def webhooks_fail(sweep: RouteSweep, receiver: Receiver) -> None:
    """An endpoint that quotes what it was sent in answers, or in what is none."""
    secret = password()
    sweep.canaries.plant("webhook URL", secret)
    path = f"/hook?token={quote(secret, safe='')}"

    def quoting(received: Received) -> bytes:
        sweep.leak_log.write("a delivery", json.dumps([received.headers, received.body]))
        quoted = json.dumps([received.path, secret, received.headers]).encode()
        first = (reply(500, quoted), quoted + b"\r\n\r\n") * 4
        return dict(enumerate(first)).get(len(receiver.arrived), reply(200, quoted))

    receiver.answer = quoting
    made = await sweep.data("createWebhook", "POST", "/webhooks", json={"url": receiver.url(path)})
    sweep.canaries.plant("webhook secret", made["secret"])
    sweep.values["webhook_id"] = made["id"]
    where = f"/webhooks/{made['id']}"
    userinfo = password()
    sweep.canaries.plant("password in a URL", userinfo)
    for url in (f"http://user:{quote(userinfo, safe='')}@127.0.0.1/", f"http://user:{userinfo}@127.0.0.1/"):
        assert (await sweep.call("createWebhook", "POST", "/webhooks", json={"url": url})).status_code == 422
    for _ in range(3):
        await sweep.call("testWebhook", "POST", f"{where}/test")


async def authorizations(sweep: RouteSweep, accounts: Iterator[str]) -> None:
    """Good ones in every app, and those whose failure could quote a secret."""
    admin, harness = sweep.harness.admin, sweep.harness
    page = password()
    sweep.canaries.plant("secret in a page", page)
    proxy = f"socks5://proxy-sandbox_001:proxy-password-{page[2:10]}@proxy.invalid:1080"
    console = [
        f"password={page}",
        f"failed: http://user:{page}@h/cb?code={page}",
        f"Authorization: Bearer {page}",
    ]
    faults: list[tuple[str, str, dict[str, Any], str, str | None]] = [
        *(("", "", {}, app, None) for app in ("AIOTT1", "AIOTT2", "AIOTT4")),
        ("", "", {}, WRONG, "INVALID_CLIENT"),
        ("provider.token", "echo", {}, "AIOTT1", "TWITTER_API_ERROR"),
        ("provider.me", "echo", {"status": 401}, "AIOTT1", "INVALID_GRANT"),
        ("provider.oauth1_access_token", "echo", {}, "AIOTT4", "INVALID_GRANT"),
        ("provider.authorize", "error_page", {"body": f"token={page}, see {proxy}"}, "AIOTT1", "CONSENT_PAGE_ERROR"),
        ("provider.authorize", "leaky_page", {"body": {"title": f"token={page}", "password": page, "console": console}},
         "AIOTT1", "LOGIN_REQUIRED"),
        ("local.start", "status", {"body": f"cannot connect by {proxy}"}, "AIOTT1", "GOLOGIN_API_ERROR"),
    ]  # fmt: skip
    asked = []
    for endpoint, kind, details, app, code in faults:
        account = next(accounts)
        if kind:
            await admin.set_fault(endpoint, kind, account=account, **details)
        asked.append((await harness.ask(account, app), account, app, kind, code))
    for session_id, _account, app, kind, code in asked:
        ended = await harness.ended(session_id)
        assert ended["error_code"] == code, (kind, app, ended)
        await sweep.call("getAuthorization", "GET", f"/authorize/{session_id}")
        await sweep.call("getAuthorizationEvidence", "GET", f"/authorize/{session_id}/evidence")
        sweep.values.update({"session_id": session_id} if kind == "leaky_page" else {})
    session_id, account, *_ = asked[0]
    sweep.values |= {
        "account_id": account,
        "profile_id": await harness.profile_id(account),
        "api_app": "AIOTT1",
    }
    for _session, account, app, *_ in asked[:3]:
        where = f"/accounts/{account}"
        await sweep.data("getToken", "GET", f"{where}/token", params={"api_app": app})
        if app == "AIOTT2":
            await admin.set_fault("provider.token", "echo", account=account, times=1)
        await sweep.call("refreshToken", "POST", f"{where}/refresh", params={"api_app": app})


async def callers_keys(sweep: RouteSweep) -> None:
    """Make keys of every state, and use each at the end."""
    sweep.values["key_id"], used = await sweep.new_key("used")
    expired = (await sweep.new_key("expired", expires_at=(utc_now() + timedelta(seconds=0.5)).isoformat()))[1]
    rotated_id, rotated = await sweep.new_key("rotated")
    revoked_id, revoked = await sweep.new_key("revoked")
    made = await sweep.data("rotateKey", "POST", f"/keys/{rotated_id}/rotate", json={"overlap": 0})
    sweep.canaries.plant("API key", made["key"])
    await sweep.data("revokeKey", "DELETE", f"/keys/{revoked_id}")
    wrong, odd = api_key(), password()
    sweep.canaries.plant("wrong API key", wrong, odd)

    async def status(key: str) -> int:
        bearer = {"X-API-Key": "", "Authorization": f"Bearer {key}"}
        answers = [
            (await sweep.call("listEvents", "GET", "/events", headers=headers)).status_code
            for headers in ({"X-API-Key": key}, bearer)
        ]
        assert answers[0] == answers[1] or key == expired  # which may expire between the two
        return answers[1]

    async def has_expired() -> bool:
        return await status(expired) == 401

    await eventually(has_expired)
    assert [await status(key) for key in (used, made["key"])] == [200, 200]
    assert {await status(key) for key in (rotated, revoked, wrong, odd, used[:-1])} == {401}


async def gologin_refuses(sweep: RouteSweep) -> None:
    """With words that quote its token, and as one that has been revoked."""
    admin = sweep.harness.admin
    sync = await sweep.data("syncProfiles", "POST", "/profiles/sync")
    sweep.values["sync_id"] = sync["sync_id"]
    await admin.set_fault("gologin.user", "echo", status=403, times=1)
    try:
        await sweep.command("gologin", "check", code=1)
        await admin.change_settings(gologin_token_revoked=True)
        await sweep.command("worker", "run-once", "sync", code=None)
    finally:
        await admin.change_settings(gologin_token_revoked=False)
        await admin.clear_faults()


async def tokens_come_and_go(sweep: RouteSweep, folder: Path, account: str) -> None:
    """Imported, with lines that are wrong, and encrypted by the other key while the service runs."""
    tokens = [password() for _ in range(5)]
    sweep.canaries.plant("imported token", *tokens)
    lines = [
        "account_id,api_app,access_token,refresh_token",
        f"{account},AIOTT1,{tokens[0]},{tokens[1]}",
        f"{account},NONE,{tokens[2]},",
        f"{tokens[3]},AIOTT1,{tokens[4]},",
    ]
    file = folder / "tokens.csv"
    file.write_text("\n".join(lines))
    await sweep.command("accounts", "import", str(file), code=1)
    file.unlink()
    await sweep.command("accounts", "export", str(folder / "accounts.csv"))
    await sweep.command("profiles", "export", "--all", str(folder / "profiles.csv"))
    keys = ",".join(reversed(sweep.harness.environment["ENCRYPTION_KEYS"].split(",")))
    await sweep.command("secrets", "rotate", ENCRYPTION_KEYS=keys)
    later = {"not_before": (utc_now() + timedelta(hours=1)).isoformat()}
    order = {"rows": [{"account_id": account, "api_app": "AIOTT1"}], "defaults": later}
    batch = await sweep.data("authorizeBatch", "POST", "/authorize/batch", json=order)
    sweep.values["batch_id"] = batch["batch_id"]

    async def delivered() -> Any:
        where = f"/webhooks/{sweep.values['webhook_id']}/deliveries"
        found = await sweep.data("listDeliveries", "GET", where, params={"status": "delivered"})
        return found and str(found[0]["id"])

    sweep.values["delivery_id"] = await eventually(delivered)


async def other_commands(sweep: RouteSweep, folder: Path) -> None:
    sweep.canaries.plant("API key", (await sweep.command("keys", "create", "by command")).strip())
    sweep.canaries.plant("API key", (await sweep.command("keys", "rotate", "by command")).strip())
    await sweep.command("keys", "list")
    await sweep.command("keys", "revoke", "by command")
    secret = password()
    sweep.canaries.plant("webhook URL", secret)
    webhook, signing = (await sweep.command("webhooks", "create", f"http://127.0.0.1:9/?t={secret}")).split()
    again = await sweep.command("webhooks", "rotate", webhook)
    sweep.canaries.plant("webhook secret", signing, again.strip())
    await sweep.command("webhooks", "list")
    await sweep.command("webhooks", "show", webhook)
    await sweep.command("webhooks", "test", webhook, code=1)
    await sweep.command("doctor")
    for form in ("csv", "ndjson"):
        await sweep.call("exportEvents", "GET", "/events/export", params={"format": form})
