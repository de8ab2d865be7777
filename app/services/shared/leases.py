"""Leases on rows: who holds one works on the row; a heartbeat keeps it; a result is applied only under it.

The rule is in the database: taking, keeping and giving back are single guarded statements, so that of two processes
one wins, and one that was away too long finds its lease gone. Expiries are set and compared by the database's clock.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import ColumnElement, update

from app.database import Database, affected_rows, database_time
from app.models.base import Lease
from app.utils.exceptions import DatabaseUnavailableException, LeaseLostException
from app.utils.logger import get_logger
from app.utils.tasks import wait_for_event

NO_LEASE: Final[Mapping[str, Any]] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}
"""Columns of a row that nobody holds."""

_BEATS_PER_LEASE: Final = 3

log = get_logger(__name__)


def new_lease_token() -> str:
    return str(uuid.uuid4())


def lease_columns(token: str, *, owner: str, seconds: float) -> dict[str, Any]:
    """Return the columns of a row that `owner` holds for `seconds` from now."""
    expires_at = database_time(plus=seconds)
    return {"lease_token": token, "lease_owner": owner, "lease_expires_at": expires_at}


def take_lease(row: Lease, *, owner: str | None, seconds: float) -> str:
    """Give `owner` a lease of `seconds` on a row that the transaction has locked; return the lease's token."""
    row.lease_token = token = new_lease_token()
    row.lease_owner, row.lease_expires_at = owner, database_time(plus=seconds)
    return token


def clear_lease(row: Lease) -> None:
    """End the lease of a row that the transaction has locked."""
    row.lease_token = row.lease_owner = row.lease_expires_at = None


def has_no_lease(model: type[Lease]) -> ColumnElement[bool]:
    """Build the condition that nobody holds the row, or no longer."""
    return model.lease_expires_at.is_(None) | (model.lease_expires_at < database_time())


async def renew_lease(
    database: Database, model: type[Lease], *guard: ColumnElement[bool], seconds: float
) -> bool:
    """Extend a lease by `seconds` from now; False when it is lost. `guard` as in `update_held`."""
    return await update_held(database, model, *guard, lease_expires_at=database_time(plus=seconds))


async def update_held(
    database: Database, model: type[Lease], *guard: ColumnElement[bool], **values: Any
) -> bool:
    """Change the columns of one row under its lease, in one statement; False when the lease is lost.

    `guard`: conditions that name the row and its lease token.
    """
    async with database.autocommit() as db:
        statement = update(model).where(*guard).values(**values)
        result = await db.execute(statement, execution_options={"synchronize_session": False})
    return affected_rows(result) > 0


@asynccontextmanager
async def keep_alive(renew: Callable[[], Awaitable[bool]], *, seconds: float) -> AsyncIterator[None]:
    """Call `renew` three times per lease of `seconds` while the block runs.

    When `renew` says that the lease is lost, or cannot be reached for a whole lease, the block is interrupted and
    `LeaseLostException` is raised.
    """
    heartbeat: asyncio.Task[None] | None = None
    is_over = asyncio.Event()
    try:
        async with asyncio.timeout(None) as scope:
            heartbeat = asyncio.create_task(_beat(renew, seconds, scope, is_over))
            yield
    except TimeoutError:
        if scope.expired():
            raise LeaseLostException from None
        raise
    finally:
        if heartbeat is not None:
            is_over.set()  # not cancelled: a renewal that is under way holds a database connection
            await asyncio.wait([heartbeat])


async def _beat(
    renew: Callable[[], Awaitable[bool]], seconds: float, scope: asyncio.Timeout, is_over: asyncio.Event
) -> None:
    loop = asyncio.get_running_loop()
    last_success = loop.time()
    is_held = True
    while is_held:
        if await wait_for_event(is_over, seconds / _BEATS_PER_LEASE):
            return
        try:
            async with asyncio.timeout_at(last_success + seconds):
                is_held = await renew()
            last_success = loop.time()
        except Exception as error:
            log.warning("lease.renewal_failed", exc_info=not isinstance(error, DatabaseUnavailableException))
            is_held = loop.time() - last_success < seconds
    if not is_over.is_set():
        scope.reschedule(loop.time())
