"""`doctor`: check the settings, the database, and all that is stored. It calls nothing but the database."""

from collections.abc import AsyncIterator

import typer

from app.cli.shared import asynchronous, echo, echo_accounts, settings, show_progress
from app.config import ProcessRole, SettingsError
from app.database import Database
from app.services.fleet.diagnosis import Finding, TokenCheck, diagnose, report_tokens
from app.services.keys.people import People
from app.services.oauth.provider_file import load_providers
from app.services.tokens import key_audit
from app.services.tokens.vault import CredentialVault

commands = typer.Typer()


@commands.command()
@asynchronous
async def doctor() -> None:
    """Check the settings, the database, every stored token and secret, and the modes of secret files.

    It calls nothing but the database. Exit code 1 when there is a problem; each comes with its remedy.
    """
    problems = 0
    async for finding in _examine():
        problems += not finding.is_ok
        echo(f"{'ok' if finding.is_ok else 'PROBLEM':8}{finding.text}")
    raise typer.Exit(1 if problems else 0)


async def _examine() -> AsyncIterator[Finding]:
    try:
        loaded_settings = settings()
        load_providers(loaded_settings)
        People.from_settings(loaded_settings)
    except SettingsError as error:
        for line in str(error).splitlines():
            yield Finding(False, f"settings: {line}")
        return
    database = Database.from_settings(loaded_settings, ProcessRole.COMMAND)
    try:
        async for finding in diagnose(loaded_settings, database, check_tokens=_open_all_tokens):
            yield finding
    finally:
        await database.close()


async def _open_all_tokens(database: Database, vault: CredentialVault) -> TokenCheck:
    with show_progress("Opening", await key_audit.count_rows(database)) as progress:
        report = await key_audit.audit(database, vault, progress=progress)
    echo_accounts("opened by no key", report.unreadable)
    return TokenCheck(report_tokens(report), report.values)
