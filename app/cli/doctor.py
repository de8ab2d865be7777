"""`doctor`: check the settings, the database, and all that is stored. It calls nothing but the database."""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.cli.shared import asynchronous, echo, echo_accounts, settings, show_progress
from app.config import ProcessRole, Settings, SettingsError
from app.database import Database
from app.services.oauth.provider_file import load_providers
from app.services.operations.connections import Connections, count_connections
from app.services.tokens import key_audit
from app.services.tokens.key_audit import AuditReport
from app.services.tokens.spill import TokenSpill
from app.services.tokens.vault import CredentialVault
from app.services.webhooks import key_rotation
from app.services.webhooks.key_rotation import WebhookSecrets
from app.services.webhooks.vault import WebhookVault
from app.utils.exceptions import AppException

commands = typer.Typer()


@dataclass(frozen=True)
class Finding:
    is_ok: bool
    text: str
    """Subject of the check, and the remedy of a problem."""


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
    except SettingsError as error:
        for line in str(error).splitlines():
            yield Finding(False, f"settings: {line}")
        return
    yield Finding(True, f"settings: they load, environment {loaded_settings.environment}")
    for finding in _examine_modes(loaded_settings):
        yield finding
    async for finding in _examine_secrets(loaded_settings):
        yield finding
    driver = loaded_settings.chromedriver_path
    if driver is not None:
        if driver.is_file() and os.access(driver, os.X_OK):
            yield Finding(True, f"chromedriver: {driver}")
        else:
            yield Finding(
                False, f"chromedriver: {driver} is no program; set CHROMEDRIVER_PATH, or leave it out"
            )


def _examine_modes(loaded_settings: Settings) -> Iterator[Finding]:
    """Find files with secrets that other users of the machine may read or write."""
    paths = [Path(".env"), loaded_settings.token_spill_folder]
    name = make_url(loaded_settings.database_url.get_secret_value()).database
    if loaded_settings.is_sqlite and name and Path(name).is_file():
        paths += [Path(name).parent] if Path(name).parent != Path() else []
        paths += [Path(f"{name}{suffix}") for suffix in ("", "-wal", "-shm", ".lock")]
    open_to_others = [path for path in paths if path.exists() and path.stat().st_mode & 0o077]
    for path in open_to_others:
        mode = "700" if path.is_dir() else "600"
        yield Finding(False, f"files: other users may use {path}; run `chmod {mode} {path}`")
    if not open_to_others:
        yield Finding(True, "files: no other user may use the database, .env or the spilled tokens")


async def _examine_secrets(loaded_settings: Settings) -> AsyncIterator[Finding]:
    folder = loaded_settings.token_spill_folder
    spilled, unreadable = await TokenSpill(folder=folder, key_ring=loaded_settings.key_ring).audit()
    yield _report_spill(folder, spilled.total(), unreadable)
    database = Database.from_settings(loaded_settings, ProcessRole.COMMAND)
    try:
        async with database.reading() as db:
            await db.execute(text("SELECT 1"))
        yield Finding(True, "database: it answers")
        await database.check_schema()
        yield Finding(True, "schema: up to date")
        if not database.is_sqlite:
            yield report_connections(loaded_settings, await count_connections(database))
        vault = CredentialVault(key_ring=loaded_settings.key_ring)
        report = await _audit(database, vault)
        yield _report_tokens(report)
        webhooks = await key_rotation.audit(database, WebhookVault(key_ring=loaded_settings.key_ring))
        yield _report_webhooks(webhooks)
        report.values.update(webhooks.values)
        for key_id in vault.key_ids:
            yield _report_key(
                key_id, report.values[key_id], spilled[key_id], writes=key_id == vault.writing_key_id
            )
    except AppException as error:
        yield Finding(False, f"database: {error.message}")
    except DBAPIError as error:
        yield Finding(False, f"database: {' '.join(str(error.orig).split())}")
    finally:
        await database.close()


async def _audit(database: Database, vault: CredentialVault) -> AuditReport:
    with show_progress("Opening", await key_audit.count_rows(database)) as progress:
        report = await key_audit.audit(database, vault, progress=progress)
    echo_accounts("opened by no key", report.unreadable)
    return report


def report_connections(loaded_settings: Settings, seen: Connections) -> Finding:
    """Compare what the processes that are connected may open with what the server allows."""
    in_use = f"{seen.in_use} of {seen.allowed} in use"
    if loaded_settings.database_direct_url is not None:  # the pooler decides how many there are
        if seen.in_use < seen.allowed:
            return Finding(True, f"connections: {in_use}, those of the pooler included")
        return Finding(
            False, f"connections: {in_use}; lower the pooler's pool sizes, or raise max_connections"
        )
    most = sum(
        count * (loaded_settings.pool_size(role) + role.queue_connections)
        for role, count in seen.processes.items()
    )
    names = ", ".join(f"{count} {role}" for role, count in sorted(seen.processes.items())) or "none"
    text = f"connections: {in_use}; processes of the service: {names}; they may open {most} by these settings"
    if most + seen.others <= seen.allowed:
        return Finding(True, text)
    return Finding(
        False,
        f"{text}, and others hold {seen.others}: raise max_connections, lower DATABASE_POOL_SIZE, "
        "or put PgBouncer in front",
    )


def _report_tokens(report: AuditReport) -> Finding:
    if not report.unreadable:
        return Finding(True, f"stored tokens: all {report.values.total()} open")
    missing = ", ".join(sorted(report.missing_key_ids))
    advice = (
        f"put the keys back into ENCRYPTION_KEYS: {missing}" if missing else "authorise the accounts again"
    )
    return Finding(False, f"stored tokens: of {len(report.unreadable)} accounts opened by no key; {advice}")


def _report_webhooks(webhooks: WebhookSecrets) -> Finding:
    if not webhooks.unreadable:
        return Finding(True, f"webhook secrets: all {webhooks.values.total()} open")
    ids = ", ".join(webhooks.unreadable)
    advice = "put the key back into ENCRYPTION_KEYS, or rotate the secret: `python -m app webhooks rotate`"
    return Finding(False, f"webhook secrets: opened by no key: {ids}; {advice}")


def _report_key(key_id: str, stored: int, spilled: int, *, writes: bool) -> Finding:
    if writes:
        advice = "it writes"
    elif stored:
        advice = "still needed; `python -m app secrets rotate` replaces it"
    elif spilled:
        advice = "still needed until a service has saved the files"
    else:
        advice = "unused: once no process writes by it, it may leave ENCRYPTION_KEYS"
    return Finding(True, f"key {key_id}: {stored} stored values, {spilled} spilled files; {advice}")


def _report_spill(folder: Path, count: int, unreadable: Sequence[Path]) -> Finding:
    if unreadable:
        names = ", ".join(path.name for path in unreadable)
        advice = (
            "they hold tokens that no database has: put their key back into ENCRYPTION_KEYS, keep the files"
        )
        return Finding(False, f"spilled tokens: opened by no key in {folder}: {names}; {advice}")
    waiting = f"{count} files wait in {folder} for a service that saves them" if count else "none wait"
    return Finding(True, f"spilled tokens: {waiting}")
