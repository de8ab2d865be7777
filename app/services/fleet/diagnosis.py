"""Diagnosis of an installation: findings about files, database, stored tokens and keys; only the database is called."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.config import Settings
from app.database import Database
from app.services.operations.connections import Connections, count_connections
from app.services.tokens import key_audit
from app.services.tokens.key_audit import AuditReport
from app.services.tokens.spill import TokenSpill
from app.services.tokens.vault import CredentialVault
from app.services.webhooks import key_rotation
from app.services.webhooks.key_rotation import WebhookSecrets
from app.services.webhooks.vault import WebhookVault
from app.utils.exceptions import AppException


@dataclass(frozen=True)
class Finding:
    is_ok: bool
    text: str
    """Subject of the check, and the remedy of a problem."""


@dataclass(frozen=True)
class TokenCheck:
    """Result of a look at stored tokens."""

    finding: Finding
    values: Counter[str]
    """Values by the id of the key that wrote them."""
    is_whole: bool = True
    """False: there are more."""


CheckTokens = Callable[[Database, CredentialVault], Awaitable[TokenCheck]]


async def diagnose(
    settings: Settings, database: Database, *, check_tokens: CheckTokens
) -> AsyncIterator[Finding]:
    """Yield what is found about settings that have loaded. A database that does not answer is a finding, too."""
    yield Finding(True, f"settings: they load, environment {settings.environment}")
    for finding in _check_modes(settings):
        yield finding
    folder = settings.token_spill_folder
    spilled, unreadable = await TokenSpill(folder=folder, key_ring=settings.key_ring).audit()
    yield _report_spill(folder, spilled.total(), unreadable)
    try:
        async for finding in _check_database(settings, database, check_tokens, spilled):
            yield finding
    except AppException as error:
        yield Finding(False, f"database: {error.message}")
    except DBAPIError as error:
        yield Finding(False, f"database: {' '.join(str(error.orig).split())}")
    driver = settings.chromedriver_path
    if driver is not None:
        if driver.is_file() and os.access(driver, os.X_OK):
            yield Finding(True, f"chromedriver: {driver}")
        else:
            yield Finding(
                False, f"chromedriver: {driver} is no program; set CHROMEDRIVER_PATH, or leave it out"
            )


async def check_oldest_tokens(database: Database, vault: CredentialVault) -> TokenCheck:
    """Look only at which keys the oldest tokens need, at a bounded cost; none is opened."""
    async with database.reading() as db:
        sample = await key_audit.count_oldest(db)
    extent = f"all {sample.values.total()}" if sample.is_whole else f"{sample.values.total()} of the oldest"
    if missing := sample.values.keys() - set(vault.key_ids):
        number = sum(sample.values[key_id] for key_id in missing)
        text = f"{number} need keys that are missing; put them back into ENCRYPTION_KEYS: {', '.join(sorted(missing))}"
        finding = Finding(False, f"stored tokens: {text}")
    else:
        finding = Finding(
            True,
            f"stored tokens: the keys of {extent} are in the settings; `python -m app doctor` opens each token",
        )
    return TokenCheck(finding, sample.values, sample.is_whole)


def report_tokens(report: AuditReport) -> Finding:
    """Report an audit that opened all tokens."""
    if not report.unreadable:
        return Finding(True, f"stored tokens: all {report.values.total()} open")
    missing = ", ".join(sorted(report.missing_key_ids))
    advice = (
        f"put the keys back into ENCRYPTION_KEYS: {missing}" if missing else "authorise the accounts again"
    )
    return Finding(False, f"stored tokens: of {len(report.unreadable)} accounts opened by no key; {advice}")


def report_connections(settings: Settings, seen: Connections) -> Finding:
    """Compare what the processes that are connected may open with what the server allows."""
    in_use = f"{seen.in_use} of {seen.allowed} in use"
    if settings.database_direct_url is not None:  # the pooler decides how many there are
        if seen.in_use < seen.allowed:
            return Finding(True, f"connections: {in_use}, those of the pooler included")
        return Finding(
            False, f"connections: {in_use}; lower the pooler's pool sizes, or raise max_connections"
        )
    most = sum(
        count * (settings.pool_size(role) + role.queue_connections) for role, count in seen.processes.items()
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


def _check_modes(settings: Settings) -> Iterator[Finding]:
    """Find files with secrets that other users of the machine may read or write."""
    paths = [Path(".env"), settings.token_spill_folder]
    name = make_url(settings.database_url.get_secret_value()).database
    if settings.is_sqlite and name and Path(name).is_file():
        paths += [Path(name).parent] if Path(name).parent != Path() else []
        paths += [Path(f"{name}{suffix}") for suffix in ("", "-wal", "-shm", ".lock")]
    open_to_others = [path for path in paths if path.exists() and path.stat().st_mode & 0o077]
    for path in open_to_others:
        mode = "700" if path.is_dir() else "600"
        yield Finding(False, f"files: other users may use {path}; run `chmod {mode} {path}`")
    if not open_to_others:
        yield Finding(True, "files: no other user may use the database, .env or the spilled tokens")


async def _check_database(
    settings: Settings, database: Database, check_tokens: CheckTokens, spilled: Counter[str]
) -> AsyncIterator[Finding]:
    """Raises `AppException`, and `DBAPIError` with the database's own words."""
    async with database.reading() as db:
        await db.execute(text("SELECT 1"))
    yield Finding(True, "database: it answers")
    await database.check_schema()
    yield Finding(True, "schema: up to date")
    if not database.is_sqlite:
        yield report_connections(settings, await count_connections(database))
    vault = CredentialVault(key_ring=settings.key_ring)
    tokens = await check_tokens(database, vault)
    yield tokens.finding
    webhooks = await key_rotation.audit(database, WebhookVault(key_ring=settings.key_ring))
    yield _report_webhooks(webhooks)
    for key_id in vault.key_ids:
        stored = tokens.values[key_id] + webhooks.values[key_id]
        if key_id == vault.writing_key_id:
            use = "it writes"
        elif stored:
            use = "still needed; `python -m app secrets rotate` replaces it"
        elif spilled[key_id]:
            use = "still needed until a service has saved the files"
        elif not tokens.is_whole:
            use = "perhaps unused; `python -m app doctor` looks at all tokens"
        else:
            use = "unused: once no process writes by it, it may leave ENCRYPTION_KEYS"
        yield Finding(True, f"key {key_id}: {stored} stored values, {spilled[key_id]} spilled files; {use}")


def _report_webhooks(webhooks: WebhookSecrets) -> Finding:
    if not webhooks.unreadable:
        return Finding(True, f"webhook secrets: all {webhooks.values.total()} open")
    ids = ", ".join(webhooks.unreadable)
    advice = "put the key back into ENCRYPTION_KEYS, or rotate the secret: `python -m app webhooks rotate`"
    return Finding(False, f"webhook secrets: opened by no key: {ids}; {advice}")


def _report_spill(folder: Path, count: int, unreadable: Sequence[Path]) -> Finding:
    if unreadable:
        names = ", ".join(path.name for path in unreadable)
        advice = (
            "they hold tokens that no database has: put their key back into ENCRYPTION_KEYS, keep the files"
        )
        return Finding(False, f"spilled tokens: opened by no key in {folder}: {names}; {advice}")
    waiting = f"{count} files wait in {folder} for a service that saves them" if count else "none wait"
    return Finding(True, f"spilled tokens: {waiting}")
