"""The commands as a person or a script meets them: exit codes, one readable line per mistake, no traceback."""

import asyncio
import os
import re
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from app.database import Database
from app.models import ApiKey, utc_now
from sandbox.demo.service_process import ServiceProcess
from sandbox.modules import ModuleStarter, start_module
from sandbox.process import SandboxProcess
from tests.e2e.harness import ServiceHarness, open_harness
from tests.e2e.processes import processes_with
from tests.fixtures.browsers import whole_chromium

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 200


@dataclass(frozen=True)
class Result:
    code: int
    output: str
    problems: str

    @property
    def text(self) -> str:
        return self.output + self.problems


class Shell:
    """Runs `python -m app`, or another module, in a folder without an `.env`; GoLogin is where nobody listens."""

    def __init__(self, folder: Path, start_module: ModuleStarter) -> None:
        self.folder = folder
        self.start_module = start_module
        kept = ("PATH", "HOME", "CHROMIUM_PATH", "CHROMEDRIVER_PATH")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment |= {"PYTHONPATH": str(ROOT), "GOLOGIN_API_URL": "http://127.0.0.1:1"}
        self.environment |= {"DATABASE_URL": f"sqlite+aiosqlite:///{folder}/cli.db"}

    async def __call__(self, *arguments: str, module: str = "app", **settings: str) -> Result:
        process = await self.start_module(
            module,
            *arguments,
            env=self.environment | settings,
            stdout=PIPE,
            stderr=PIPE,
            cwd=self.folder,
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                output, problems = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        result = Result(process.returncode, output.decode(), problems.decode())
        assert "Traceback" not in result.text
        return result


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path, ServiceProcess.start_module)


@pytest.fixture
def cold_shell(tmp_path: Path) -> Shell:
    """Each process starts as a person's does, and imports all that it needs."""
    return Shell(tmp_path, start_module)


@pytest.fixture
def migrated(shell: Shell, sqlite_template: Path) -> Shell:
    shutil.copyfile(sqlite_template, shell.folder / "cli.db")
    return shell


async def keys_in(shell: Shell) -> list[ApiKey]:
    database = Database(shell.environment["DATABASE_URL"], pool_size=1)
    try:
        async with database.reading() as db:
            return list(await db.scalars(select(ApiKey).order_by(ApiKey.id)))
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--help",), ["serve", "keys", "migrate"]),
        (("serve", "--help"), ["SIGTERM"]),
        pytest.param(("keys", "--help"), ["create"], marks=pytest.mark.long),
        pytest.param(("secrets", "--help"), ["generate", "rotate"], marks=pytest.mark.long),
    ],
)
async def test_every_command_has_help(shell: Shell, arguments: tuple[str, ...], expected: list[str]):
    result = await shell(*arguments)
    assert result.code == 0
    assert [word for word in expected if word not in result.output] == []


async def test_an_unknown_command_is_a_usage_error(cold_shell: Shell):
    result = await cold_shell("servee")
    assert result.code == 2
    assert "servee" in result.problems


@pytest.mark.parametrize(
    "command", [("serve",), pytest.param(("keys", "create", "x"), marks=pytest.mark.long)]
)
async def test_a_mistake_in_the_providers_file_ends_the_start(migrated: Shell, command: tuple[str, ...]):
    (migrated.folder / "providers.toml").write_text('[plain]\ntoken_url = "plain.example"\n')
    result = await migrated(*command, PROVIDERS_FILE="providers.toml")
    assert result.code == 2
    told = result.problems.splitlines()
    assert "providers.toml:1: plain.me_url: is missing" in told
    assert [line for line in told if line.startswith("providers.toml:2: plain.token_url: must be")]


async def test_a_key_is_shown_once_and_kept_as_a_hash(migrated: Shell):
    result = await migrated(
        "keys", "create", "billing", "--scope", "authorize", "--scope", "profiles", "--days", "2"
    )
    assert result.code == 0
    assert re.fullmatch(r"gla_[0-9a-f]{8}_[\w-]{43}\n", result.output)
    (key,) = await keys_in(migrated)
    assert (key.name, key.scopes) == ("billing", ["authorize", "profiles"])
    assert result.output.startswith(key.prefix)
    assert key.expires_at is not None
    assert timedelta(days=1.9) < key.expires_at - utc_now() < timedelta(days=2)
    secret = result.output.strip().encode()
    assert all(secret not in path.read_bytes() for path in migrated.folder.iterdir())


async def test_a_key_may_authorize_and_read_its_sessions_by_default_and_never_expires(migrated: Shell):
    await migrated("keys", "create", "billing")
    (key,) = await keys_in(migrated)
    assert (key.scopes, key.expires_at) == (["authorize", "sessions:read"], None)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("billing", "named 'billing' exists already", marks=pytest.mark.long),
        pytest.param("bootstrap", "cannot be named", marks=pytest.mark.long),
        (" ", "cannot be named"),
    ],
)
async def test_invalid_key_name_is_refused(migrated: Shell, name: str, sentence: str):
    await migrated("keys", "create", "billing")
    result = await migrated("keys", "create", name)
    assert (result.code, result.output) == (1, "")
    assert sentence in result.problems
    assert len(result.problems.splitlines()) == 1
    assert len(await keys_in(migrated)) == 1


@pytest.mark.parametrize("wrong", [("--scope", "everything"), ("--days", "0")])
async def test_a_wrong_option_makes_no_key(migrated: Shell, wrong: tuple[str, str]):
    result = await migrated("keys", "create", "billing", *wrong)
    assert (result.code, result.output) == (2, "")
    assert await keys_in(migrated) == []


async def test_an_encryption_key_can_be_used_at_once(migrated: Shell):
    made = (await migrated("secrets", "generate", "k7")).output.strip()
    assert made.startswith("k7:")
    assert (await migrated("keys", "create", "billing", ENCRYPTION_KEYS=made)).code == 0


async def test_each_wrong_setting_is_reported_on_one_line(migrated: Shell):
    wrong = {
        "PORT": "99999",
        "LOG_LEVEL": "LOUD",
        "SHUTDOWN_GRACE": "-1",
        "GOLOGIN_API_URL": "api.gologin.com",
        "ENCRYPTION_KEYS": "no-such-secret-key",
    }
    result = await migrated("serve", **wrong)
    assert result.code == 2
    title, *lines = result.problems.strip().splitlines()
    assert title == "Wrong settings:"
    assert sorted(line.partition(":")[0] for line in lines) == sorted(wrong)
    assert "no-such-secret-key" not in result.text


@pytest.mark.parametrize(
    "value",
    [
        "{not json",
        pytest.param('{"AIOTT1": {"client_id": "x"}}', marks=pytest.mark.long),
        pytest.param('{"AIOTT1": 1}', marks=pytest.mark.long),
        pytest.param("[]", marks=pytest.mark.long),
    ],
)
async def test_unreadable_oauth_apps_are_refused(migrated: Shell, value: str):
    result = await migrated("serve", OAUTH_APPS=value)
    assert result.code == 2
    assert "OAUTH_APPS" in result.problems.upper()


async def test_misspelt_setting_is_refused(migrated: Shell):
    result = await migrated("serve", GOLOGIN_API_TOKN="x", DATABASE_POOL="5")
    assert result.code == 2
    assert "GOLOGIN_API_TOKN: no such setting" in result.problems
    assert "DATABASE_POOL: no such setting" in result.problems


async def test_misspelt_setting_in_the_file_is_refused(migrated: Shell):
    (migrated.folder / ".env").write_text("PROT=8000\n")
    result = await migrated("serve")
    assert result.code == 2
    assert "PROT: no such setting" in result.problems


async def test_placeholders_do_not_start_outside_development(migrated: Shell):
    result = await migrated("serve", ENVIRONMENT="production")
    assert result.code == 2
    for name in ("API_KEY", "GOLOGIN_API_TOKEN", "ENCRYPTION_KEYS"):
        assert name in result.problems


@pytest.mark.parametrize(
    "arguments", [("serve",), pytest.param(("keys", "create", "billing"), marks=pytest.mark.long)]
)
async def test_a_schema_that_is_missing_says_how_to_migrate(shell: Shell, arguments: tuple[str, ...]):
    result = await shell(*arguments, PORT="0")
    assert (result.code, result.output) == (1, "")
    assert "run `python -m app migrate`" in result.problems
    assert len(result.problems.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve",),
        pytest.param(("migrate",), marks=pytest.mark.long),
        pytest.param(("keys", "create", "billing"), marks=pytest.mark.long),
    ],
)
async def test_unreachable_database_is_reported(shell: Shell, arguments: tuple[str, ...]):
    url = "postgresql+psycopg://user:hidden-password@127.0.0.1:1/none"
    result = await shell(*arguments, DATABASE_URL=url)
    assert (result.code, result.output) == (1, "")
    assert len(result.problems.splitlines()) == 1
    assert "hidden-password" not in result.text


async def test_migrating_twice_changes_nothing(shell: Shell):
    assert [(await shell("migrate")).code for _ in range(2)] == [0, 0]
    assert (await shell("keys", "create", "billing")).code == 0


async def test_port_in_use_is_reported(migrated: Shell):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = await migrated("serve", PORT=str(port))
    assert result.code not in (0, None)
    assert "another process listens on port" in result.text
    assert str(port) in result.text


async def test_a_key_made_beside_a_running_service_works_until_it_is_expired(
    sandbox: SandboxProcess, folder: Path
):
    async with open_harness(sandbox, folder) as harness:
        harness.key = await harness.service.run("keys", "create", "reader", "--scope", "profiles")
        assert (await harness.post("nobody")).json()["error_code"] == "FORBIDDEN"
        harness.key = await harness.service.run("keys", "create", "caller", "--days", "1")
        assert (await harness.post("nobody")).json()["error_code"] == "PROFILE_NOT_FOUND"
        await expire(harness, "caller")
        assert (await harness.post("nobody")).json()["error_code"] == "UNAUTHORIZED"


async def expire(harness: ServiceHarness, name: str) -> None:
    database = Database(harness.environment["DATABASE_URL"], pool_size=1)
    try:
        async with database.transaction() as db:
            key = (await db.scalars(select(ApiKey).where(ApiKey.name == name))).one()
            key.expires_at = utc_now() - timedelta(seconds=1)
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("module", "options"),
    [("sandbox", ["--accounts", "--provider-port"]), ("sandbox.demo", ["--accounts", "--keep"])],
)
async def test_the_sandbox_and_its_demo_have_help(shell: Shell, module: str, options: list[str]):
    result = await shell("--help", module=module)
    assert result.code == 0
    for option in options:
        assert option in result.output


@pytest.mark.parametrize("number", ["0", "many"])
async def test_a_demo_of_no_number_of_accounts_is_a_usage_error(shell: Shell, number: str):
    assert (await shell("--accounts", number, module="sandbox.demo")).code == 2


@pytest.mark.begin_early
async def test_the_demo_succeeds(cold_shell: Shell):
    """The processes of the demo, a sandbox, `migrate`, `serve` and the whole Chromium, start as a person's do."""
    result = await cold_shell("--accounts", "1", module="sandbox.demo", CHROMIUM_PATH=whole_chromium())
    assert result.code == 0, result.text
    assert "1 of 1 completed" in result.output
    assert "Stored tokens that work (who-am-I agrees): 1 of 1" in result.output
    assert re.search(r"Secrets in clear in [\w., -]*service\.db[\w., -]*: none", result.output)
    assert "Browsers left: 0" in result.output
    assert processes_with(str(cold_shell.folder)) == []


@pytest.mark.long
async def test_the_demo_fails_when_an_account_does(shell: Shell, folder: Path):
    async with SandboxProcess(accounts=2, data_dir=folder / "demo") as sandbox:
        await sandbox.admin.set_fault("provider.authorize", "declined", account="sandbox_002")
        result = await shell("--accounts", "2", "--sandbox", sandbox.info.admin_url, module="sandbox.demo")
        assert result.code == 1
        assert "1 of 2 completed" in result.output
        assert "@sandbox_002: CONSENT_DECLINED" in result.output
        assert await sandbox.admin.browsers() == []


async def test_the_sandbox_command_announces_itself(shell: Shell):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox", "--accounts", "1",
        cwd=shell.folder, env=shell.environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = await process.stdout.readline()
        assert b'"sandbox_001"' in line
        process.terminate()
        async with asyncio.timeout(20):
            await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
