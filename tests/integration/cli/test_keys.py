"""`python -m app keys …`: what it prints is a key that works, or a table without any."""

import asyncio

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.context import open_context
from app.services.keys.service import Caller
from app.services.shared.access import AccessScope
from app.utils.exceptions import AuthenticationException, RotationUnderWayException
from tests.fixtures.settings import MakeSettings

pytestmark = pytest.mark.usefixtures("restored_logging")


@pytest.fixture
def settings_of_commands(
    sqlite_url: str, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> MakeSettings:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OAUTH_APPS", '{"AIOTT1": {"client_id": "i", "redirect_uri": "http://127.0.0.1/c"}}')
    return lambda: make_settings(database_url=sqlite_url)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["keys", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout.strip()


def caller_of(settings_of_commands: MakeSettings, key: str) -> Caller:
    async def authenticate() -> Caller:
        async with open_context(settings_of_commands()) as context:
            return await context.keys.authenticate(key)

    return asyncio.run(authenticate())


def test_key_lives_from_creation_to_revocation(settings_of_commands: MakeSettings):
    restrictions = ("--app", "AIOTT1", "--account", "shop_*", "--account", "@Anna", "--rate-limit", "7")
    first = run(
        "create", "billing", "--scope", "tokens:read", "--scope", "events", *restrictions, "--days", "9"
    )
    access = AccessScope.from_lists(["AIOTT1"], ["shop_*", "anna"])
    expected = caller_of(settings_of_commands, first)
    assert expected.expires_at is not None
    scopes = frozenset({"tokens:read", "events"})
    assert expected == Caller("billing", scopes, access, 7, expected.expires_at)

    second = run("rotate", "billing", "--overlap", "60")
    assert caller_of(settings_of_commands, first) == caller_of(settings_of_commands, second) == expected
    with pytest.raises(RotationUnderWayException):
        run("rotate", "billing", "--overlap", "0")
    third = run("rotate", "billing", "--overlap", "0", "--force")
    with pytest.raises(AuthenticationException):
        caller_of(settings_of_commands, second)

    shown = run("list")
    (line,) = [line for line in shown.splitlines() if "billing" in line]
    assert all(part in line for part in (third[:12], "active", "tokens:read", "shop_* anna", "AIOTT1", " 7 "))
    assert third[13:] not in shown

    assert run("revoke", "billing") == "The key billing is revoked."
    with pytest.raises(AuthenticationException):
        caller_of(settings_of_commands, third)
    assert "billing" not in run("list", "--status", "active")
    assert "revoked" in run("list", "--status", "revoked")


def test_names_of_keys_are_no_markup(settings_of_commands: MakeSettings):
    names = ("[/x]", "[link=http://evil]a", "[bold]b[/bold]", ":smile:")
    for name in names:
        run("create", name)
    table = run("list")
    assert all(f" {name} " in table for name in names)
    assert "\x1b" not in table
    run("revoke", "[/x]")


@pytest.mark.parametrize("name", ["[/x]", "[link=http://evil]a"])
def test_an_argument_that_is_refused_is_shown_as_it_is(settings_of_commands: MakeSettings, name: str):
    result = CliRunner().invoke(cli, ["keys", "revoke", "a", name])
    assert result.exit_code == 2
    assert name in result.stderr
    assert "Traceback" not in result.stderr
