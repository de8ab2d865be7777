"""Parts of the benchmarks of tokens: a context of the service over the sandbox, and accounts with real tokens."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import insert

from app.config import load_settings
from app.context import Context, open_context
from app.database import Database
from app.models import Credential, utc_now
from app.services.interfaces import TokenSet
from sandbox.admin import GrantTokens
from sandbox.config import SCOPES
from sandbox.demo.service_process import settings_for
from sandbox.process import SandboxProcess

APP = "AIOTT1"
_CHUNK = 2000


@asynccontextmanager
async def opened(sandbox: SandboxProcess, folder: Path, **changes: object) -> AsyncIterator[Context]:
    """Open a context on a database that is migrated first."""
    environment = settings_for(sandbox.info, folder=folder, **changes)
    settings = load_settings(env_file=None, **{name.lower(): value for name, value in environment.items()})
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    await database.migrate()
    await database.close()
    async with open_context(settings) as context:
        yield context


async def granted(sandbox: SandboxProcess, accounts: Sequence[str], app: str = APP) -> list[GrantTokens]:
    return [
        grant
        for start in range(0, len(accounts), _CHUNK)
        for grant in await sandbox.admin.give_grants(app, accounts[start : start + _CHUNK])
    ]


async def store(
    context: Context,
    grants: Sequence[GrantTokens],
    *,
    expires_at: Callable[[int], datetime],
    due_at: Callable[[int], datetime | None],
    app: str = APP,
) -> None:
    """One row each, as an authorization would leave it; the times by the number of the grant."""
    rows = [
        {
            "account_id": grant.account,
            "api_app": app,
            "provider_user_id": "1",
            "scopes": list(SCOPES),
            "token_expires_at": expires_at(number),
            "refresh_due_at": due_at(number),
            **context.tokens.vault.sealed(grant.account, app, _tokens(grant)),
        }
        for number, grant in enumerate(grants)
    ]
    for start in range(0, len(rows), _CHUNK):
        async with context.database.transaction() as db:
            await db.execute(insert(Credential), rows[start : start + _CHUNK])


async def store_fresh(context: Context, grants: Sequence[GrantTokens]) -> None:
    later = utc_now() + timedelta(hours=2)
    await store(context, grants, expires_at=lambda _: later, due_at=lambda _: later)


def _tokens(grant: GrantTokens) -> TokenSet:
    refresh_token = SecretStr(grant.refresh_token) if grant.refresh_token else None
    return TokenSet(SecretStr(grant.access_token), refresh_token, SCOPES, 7200)
