"""Leases on rows: who holds one works on the row; a heartbeat keeps it; a result is applied only under it.

The rule is in the database: taking, keeping and giving back are single guarded statements, so that of two processes
one wins, and one that was away too long finds its lease gone. Expiries are set and compared by the database's clock.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from app.utils.exceptions import DatabaseUnavailableException, LeaseLostException
from app.utils.logger import get_logger
from app.utils.tasks import happens_within

_BEATS_PER_LEASE: Final = 3

log = get_logger(__name__)


def new_lease_token() -> str:
    return str(uuid.uuid4())


@asynccontextmanager
async def kept_alive(renew: Callable[[], Awaitable[bool]], *, seconds: float) -> AsyncIterator[None]:
    """Call `renew` three times per lease of `seconds` while the block runs.

    When `renew` says that the lease is lost, or cannot be reached for a whole lease, the block is interrupted and
    `LeaseLostException` is raised.
    """
    heartbeat: asyncio.Task[None] | None = None
    over = asyncio.Event()
    try:
        async with asyncio.timeout(None) as scope:
            heartbeat = asyncio.create_task(_beat(renew, seconds, scope, over))
            yield
    except TimeoutError:
        if scope.expired():
            raise LeaseLostException from None
        raise
    finally:
        if heartbeat is not None:
            over.set()  # not cancelled: a renewal that is under way holds a database connection
            await asyncio.wait([heartbeat])


async def _beat(
    renew: Callable[[], Awaitable[bool]], seconds: float, scope: asyncio.Timeout, over: asyncio.Event
) -> None:
    loop = asyncio.get_running_loop()
    last_success = loop.time()
    held = True
    while held:
        if await happens_within(over, seconds / _BEATS_PER_LEASE):
            return
        try:
            async with asyncio.timeout_at(last_success + seconds):
                held = await renew()
            last_success = loop.time()
        except Exception as error:
            log.warning("lease.renewal_failed", exc_info=not isinstance(error, DatabaseUnavailableException))
            held = loop.time() - last_success < seconds
    if not over.is_set():
        scope.reschedule(loop.time())
