"""Keys rotated, tokens imported, all of them examined: the real commands, beside a service on the same database."""

import csv
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import func, select, text

from app.context import Context
from app.database import Database
from app.models import Credential, Event, utc_now
from app.services.shared.import_files import MAX_IMPORT_BYTES
from app.services.tokens.refresh_results import RefreshClaim
from app.services.tokens.spill import TokenSpill
from tests.e2e.children import CommandResult, Commands, commands
from tests.fixtures.factories import new_tokens
from tests.fixtures.key_lists import APP, access_token, fill, key_list
from tests.fixtures.services import OpenContext
from tests.fixtures.settings import MakeSettings
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEFORE, AFTER = key_list("old", "new"), key_list("new", "old")
OAUTH_APPS = {APP: {"client_id": "id", "redirect_uri": "http://127.0.0.1/callback"}}
UNUSED = "unused: once no process writes by it, it may leave ENCRYPTION_KEYS"
ROWS = 5000
"""Ten batches of a rotation."""
Run = Callable[..., Awaitable[CommandResult]]


@pytest_asyncio.fixture
async def runner(tmp_path: Path) -> AsyncIterator[Commands]:
    async with commands(tmp_path / "commands") as opened:
        yield opened


@pytest.fixture
def environment(tmp_path: Path, database_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "ENCRYPTION_KEYS": AFTER,
        "OAUTH_APPS": json.dumps(OAUTH_APPS),
        "TOKEN_SPILL_FOLDER": str(tmp_path / "spilled"),
    }


@pytest.fixture
def run(runner: Commands, environment: dict[str, str]) -> Run:
    """`await run("doctor", ENCRYPTION_KEYS=…)`."""
    return lambda *arguments, **changes: runner(*map(str, arguments), environment=environment | changes)


@pytest_asyncio.fixture
async def service(open_services: OpenContext) -> AsyncIterator[Context]:
    """A process whose settings still have the old key first."""
    async with open_services(encryption_keys=BEFORE, oauth_apps=OAUTH_APPS) as opened:
        yield opened


async def count_rotated(database: Database) -> int:
    async with database.reading() as db:
        query = select(func.count()).where(Credential.access_token.startswith("new:"))
        return await db.scalar(query) or 0


async def rows_of(database: Database) -> dict[str, Credential]:
    async with database.reading() as db:
        return {row.account_id: row for row in await db.scalars(select(Credential))}


def told(ended: CommandResult) -> list[str]:
    """Return the subjects of the lines on standard error; the progress bar leaves an empty one."""
    return [line.split(":")[0] for line in ended.problems.splitlines() if line]


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
async def test_a_rotation_that_is_killed_half_way_is_resumed(
    runner: Commands, run: Run, environment: dict[str, str], service: Context, database: Database
):
    await fill(service, ROWS)
    rotation = await runner.start("secrets", "rotate", environment=environment)
    await eventually(lambda: count_rotated(database))
    async with database.transaction() as db:  # SQLite's one writer, or:
        if not database.is_sqlite:
            await db.execute(text("LOCK TABLE credentials IN SHARE MODE"))
        rotation.kill()
        assert (await rotation.ended()).code == -9
    done = await count_rotated(database)
    assert 0 < done < ROWS
    assert done % 500 == 0, "a batch is whole or not there"
    doctor = await run("doctor")
    assert f"ok      stored tokens: all {2 * ROWS} open" in doctor.output
    assert (
        f"ok      key old: {2 * (ROWS - done)} stored values, 0 spilled files; still needed" in doctor.output
    )
    resumed = await run("secrets", "rotate")
    assert (resumed.code, resumed.output) == (
        0,
        f"{ROWS - done} accounts and 0 webhooks rotated to new, 0 opened by no key, 0 left\n",
    )
    doctor = await run("doctor", ENCRYPTION_KEYS=key_list("new"))
    assert doctor.code == 0, doctor.text
    assert f"key new: {2 * ROWS} stored values" in doctor.output
    handed = await service.tokens.credentials.get_access_token("filled_00007", APP, min_ttl=0, actor="tests")
    assert handed.access_token.get_secret_value() == access_token("filled_00007")


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
async def test_values_that_no_key_opens_are_reported_with_the_remedy(
    run: Run, service: Context, database: Database, make_settings: MakeSettings, tmp_path: Path
):
    await fill(service, 2)
    key_ring = make_settings(encryption_keys=key_list("k1")).key_ring
    async with database.transaction() as db:
        await db.execute(text("UPDATE credentials SET refresh_token = access_token WHERE id = 1"))
    await TokenSpill(folder=tmp_path / "spilled", key_ring=key_ring).write(
        RefreshClaim(1, "filled_00000", APP, 1, "lease", SecretStr("r"), utc_now()),
        new_tokens(),
        answered_at=utc_now(),
    )
    rotated = await run("secrets", "rotate")
    assert (rotated.code, rotated.output) == (
        1,
        "1 accounts and 0 webhooks rotated to new, 1 opened by no key, 0 left\n",
    )
    assert "filled_00000 in AIOTT1: opened by no key, left as it is" in rotated.problems
    doctor = await run("doctor", ENCRYPTION_KEYS=key_list("new", "old", "k1"))
    assert doctor.code == 1
    (problem,) = [line for line in doctor.output.splitlines() if not line.startswith("ok ")]
    assert problem == "PROBLEM stored tokens: of 1 accounts opened by no key; authorise the accounts again"
    assert "filled_00000 in AIOTT1" in doctor.problems
    assert "ok      spilled tokens: 1 files wait in " in doctor.output
    assert "key old: 1 stored values, 0 spilled files; still needed" in doctor.output
    assert "key k1: 0 stored values, 1 spilled files; still needed" in doctor.output
    doctor = await run("doctor", ENCRYPTION_KEYS=key_list("K1"), CHROMEDRIVER_PATH=str(tmp_path))
    assert doctor.code == 1
    problems = [line for line in doctor.output.splitlines() if line.startswith("PROBLEM")]
    assert [line.split()[1] for line in problems] == ["spilled", "stored", "chromedriver:"]
    assert problems[1].endswith("put the keys back into ENCRYPTION_KEYS: new, old")
    assert "ok      key K1: 0 stored values, 0 spilled files; it writes" in doctor.output


@pytest.mark.parametrize(
    "database_url", [pytest.param("sqlite", marks=pytest.mark.long), "postgresql"], indirect=True
)
async def test_doctor_examines_a_service_without_tokens(run: Run, database_url: str):
    doctor = await run("doctor")
    assert doctor.code == 0
    lines = doctor.output.splitlines()
    if database_url.startswith("postgresql"):
        assert re.match(r"ok      connections: \d+ of \d+ in use; processes of the service: ", lines.pop(5))
    assert lines == [
        "ok      settings: they load, environment development",
        "ok      files: no other user may use the database, .env or the spilled tokens",
        "ok      spilled tokens: none wait",
        "ok      database: it answers",
        "ok      schema: up to date",
        "ok      stored tokens: all 0 open",
        "ok      webhook secrets: all 0 open",
        "ok      key new: 0 stored values, 0 spilled files; it writes",
        f"ok      key old: 0 stored values, 0 spilled files; {UNUSED}",
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"PORT": "s3cret"}, "PROBLEM settings: PORT: "),
        ({"DATABASE_URL": "sqlite+aiosqlite:///empty.db"}, "PROBLEM database: "),
        ({"DATABASE_URL": "postgresql+psycopg://u:s3cret@127.0.0.1:1/none"}, "PROBLEM database: "),
    ],
)
async def test_doctor_runs_where_nothing_else_starts(run: Run, changes: dict[str, str], problem: str):
    doctor = await run("doctor", **changes)
    assert doctor.code == 1
    assert problem in doctor.output
    assert "s3cret" not in doctor.text


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)], indirect=True
)
async def test_tokens_are_imported_and_accounts_exported(
    run: Run, service: Context, database: Database, tmp_path: Path
):
    file, exported = tmp_path / "tokens.csv", tmp_path / "accounts.csv"
    lines = [
        "account_id,api_app,access_token,refresh_token,oauth_token_secret,expires_in,scopes,provider_user_id",
        "@Anna,AIOTT1,s3cret-anna,s3cret-refresh,,7200,tweet.read users.read,42",
        "berta,AIOTT1,s3cret-berta,s3cret-due,,,,",
        "clara,AIOTT1,s3cret-clara,,s3cret-secret,,,",
        "dora,OTHER,s3cret-dora,,,,,",
        "s3cret emil,AIOTT1,s3cret-emil,,,,,",
        "anna,AIOTT1,s3cret-again,,,,,",
    ]
    file.write_text("\n".join(lines))
    first = await run("accounts", "import", file)
    assert (first.code, first.output) == (1, "3 stored, 0 skipped, 3 bad lines\n")
    assert told(first) == ["line 5", "line 6", "line 7"]
    second = await run("accounts", "import", file)
    assert (second.code, second.output) == (1, "0 stored, 3 skipped, 3 bad lines\n")
    assert "line 2: has tokens already; skipped" in second.problems
    rows = await rows_of(database)
    assert sorted(rows) == ["anna", "berta", "clara"]
    anna, berta, clara = rows["anna"], rows["berta"], rows["clara"]
    assert (anna.provider_user_id, anna.scopes, anna.version) == ("42", ["tweet.read", "users.read"], 1)
    assert anna.token_expires_at > anna.refresh_due_at > utc_now() >= berta.refresh_due_at
    assert (clara.token_expires_at, clara.refresh_due_at) == (None, None)
    handed = await service.tokens.credentials.get_access_token("clara", APP, min_ttl=0, actor="tests")
    assert handed.oauth_token_secret is not None
    assert handed.oauth_token_secret.get_secret_value() == "s3cret-secret"
    file.write_text("\n".join([*lines[:2], "berta,AIOTT1,s3cret-newer,,,,,"]))
    third = await run("accounts", "import", "--replace", file)
    assert (third.code, third.output) == (0, "2 stored, 0 skipped, 0 bad lines\n")
    berta = (await rows_of(database))["berta"]
    assert service.tokens.vault.access_token(berta).get_secret_value() == "s3cret-newer"
    assert (berta.version, berta.refresh_token, berta.refresh_due_at) == (2, None, None)
    written = await run("accounts", "export", exported)
    assert (written.code, written.output) == (0, f"3 written to {exported}\n")
    with exported.open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [(line["account_id"], line["status"]) for line in table] == [
        (name, "active") for name in ("anna", "berta", "clara")
    ]
    async with database.reading() as db:
        events = (await db.scalars(select(Event).where(Event.event_type == "credential.imported"))).all()
    assert [(event.account_id, event.actor, event.data["version"]) for event in events][-2:] == [
        ("anna", "cli", 2),
        ("berta", "cli", 2),
    ]
    said = [ended.text for ended in (first, second, third)] + [str(event.data) for event in events]
    assert "s3cret" not in "".join([*said, exported.read_text()])
    file.unlink()
    copies = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret-" in path.read_bytes()]
    assert copies == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_tokens_are_imported_from_json(run: Run, database: Database, tmp_path: Path):
    file = tmp_path / "tokens.json"
    entries = [
        {"account_id": "anna", "api_app": APP, "access_token": "a", "expires_at": "2099-01-01T00:00:00Z"},
        {"account_id": "berta", "api_app": APP, "access_token": "b", "scopes": ["tweet.read"]},
        "s3cret",
    ]
    file.write_text(json.dumps(entries))
    ended = await run("accounts", "import", file)
    assert (ended.code, ended.output) == (1, "1 stored, 0 skipped, 2 bad lines\n")
    assert told(ended) == ["entry 1", "entry 3"]
    assert (await rows_of(database))["berta"].scopes == ["tweet.read"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_unusable_token_files_are_refused(run: Run, database: Database, tmp_path: Path):
    file, header = tmp_path / "tokens.csv", "account_id,api_app,access_token\n"
    file.write_text(f"{header}an\0na,{APP},a\nberta\r,{APP},b\n", newline="")
    odd = await run("accounts", "import", file)
    assert (odd.code, odd.output) == (1, "0 stored, 0 skipped, 3 bad lines\n")
    assert told(odd) == ["line 2", "line 3", "line 4"]
    file.write_text(f"{header}anna,{APP},{'s3cret' * 30_000}\n")
    long = await run("accounts", "import", file)
    assert (long.code, long.output) == (1, "")
    assert "cannot be read after line 1" in long.problems
    assert "s3cret" not in long.problems
    for name in ("large.csv", "large.json"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(MAX_IMPORT_BYTES + 1)
        large = await run("accounts", "import", tmp_path / name)
        assert (large.code, large.output) == (1, "")
        assert "64 MB at most" in large.problems
    assert await rows_of(database) == {}
