"""Rate limits: requests per API key, failed authentications per client address."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError
from redis.asyncio import BlockingConnectionPool
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from app.api.http.middleware import HttpMiddleware
from app.api.http.moving_window import MINUTE, MovingWindow
from app.services.keys.service import Caller
from app.utils.exceptions import AuthenticationLimitException, RateLimitException
from app.utils.logger import get_logger

_STORAGE_TIMEOUT: Final = 0.25
"""Seconds: a request does not wait longer for a storage that is away."""
_STORAGE_RETRY: Final = 5.0
_MAX_CONNECTIONS: Final = 20
_STATE: Final = "quota"
_SHARED_LOOKUPS: Final = 2
"""Look-ups at once for all addresses that failed too often: they take no more of the database's connections."""
_MAX_LOOKUPS_PER_ADDRESS: Final = 8
"""Look-ups at once for one other address, before it takes turns, too: fewer than the database has connections."""
_TURN_TIMEOUT: Final = 5.0
"""Seconds to wait for one's turn."""

QUOTA_HEADERS: Final = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")

log = get_logger(__name__)


@dataclass(frozen=True)
class Quota:
    """Rate limit of a key in any minute, and what is left of it."""

    limit: int
    remaining: int
    reset: float
    """Seconds until there is more."""
    is_exceeded: bool

    def require(self) -> None:
        """Raises `RateLimitException`."""
        if self.is_exceeded:
            raise RateLimitException(self.limit, retry_after=self.reset)


class RateLimiter:
    """`per_minute`: requests of a key that says nothing else.

    `storage_uri`: ``memory://`` counts in this process, ``redis://…`` for all that share it. While Redis does not
    answer each process counts for itself, so that nobody is refused for that.
    """

    def __init__(
        self,
        *,
        per_minute: int,
        storage_uri: str = "memory://",
        storage_timeout: float = _STORAGE_TIMEOUT,
        storage_retry: float = _STORAGE_RETRY,
    ) -> None:
        self._per_minute = per_minute
        self._storage_timeout = storage_timeout
        self._storage_retry = storage_retry
        # Not the memory of `limits`: after each request it looks through all keys, in a thread for each.
        self._own = MovingWindow()
        self._shared: MovingWindowRateLimiter | None = None
        self._connections: BlockingConnectionPool | None = None
        if not storage_uri.startswith("memory:"):
            self._connections = BlockingConnectionPool.from_url(
                storage_uri,
                max_connections=_MAX_CONNECTIONS,
                timeout=storage_timeout,
                socket_connect_timeout=storage_timeout,
                socket_timeout=storage_timeout,
            )
            options: dict[str, Any] = {"connection_pool": self._connections}
            storage = RedisStorage(
                f"async+{storage_uri}", wrap_exceptions=True, implementation="redispy", **options
            )
            self._shared = MovingWindowRateLimiter(storage)
        self._away_until: float | None = None

    async def count(self, caller: Caller) -> Quota:
        """Count one request."""
        limit = caller.rate_limit_per_minute or self._per_minute
        if self._shared is not None and (self._away_until or 0.0) <= time.monotonic():
            try:
                async with asyncio.timeout(self._storage_timeout):
                    quota = await _count_shared(self._shared, caller.name, limit)
            except (StorageError, OSError) as error:
                if self._away_until is None:
                    log.error("rate_limit.storage_away", error=type(error.__cause__ or error).__name__)
                self._away_until = time.monotonic() + self._storage_retry
            else:
                if self._away_until is not None:
                    log.info("rate_limit.storage_back")
                self._away_until = None
                return quota
        if is_allowed := self._own.count(caller.name) < limit:
            self._own.add(caller.name)
        remaining = limit - self._own.count(caller.name)
        return Quota(limit, remaining, self._own.until_less(caller.name), is_exceeded=not is_allowed)

    async def close(self) -> None:
        if self._connections is not None:
            await self._connections.aclose()


class FailedAuthentications:
    """Failed authentications of each client address, counted by this process.

    A valid key passes from any address: others may send from there, too (a proxy, a NAT).
    """

    def __init__(
        self, *, per_minute: int, window: MovingWindow | None = None, turn_timeout: float = _TURN_TIMEOUT
    ) -> None:
        self._per_minute = per_minute
        self._turn_timeout = turn_timeout
        self._window = window or MovingWindow()
        self._look_ups = asyncio.Semaphore(_SHARED_LOOKUPS)
        self._under_way: Counter[str] = Counter()
        """Look-ups out of turn, of each network: any of them may fail."""

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Hold a permit for one key look-up; addresses over their failure budget share two permits.

        An address within its budget that looks up more at once than may fail takes its turn, too, but is not refused:
        on a busy machine all of its keys may be valid. Raises `AuthenticationLimitException`.
        """
        network = _network(address)
        remaining = self._per_minute - self._window.count(network)
        if self._under_way[network] < min(remaining, _MAX_LOOKUPS_PER_ADDRESS):
            self._under_way[network] += 1
            try:
                yield
            finally:
                self._under_way[network] -= 1
                if not self._under_way[network]:
                    del self._under_way[network]
            return
        async with AsyncExitStack() as permit:
            try:
                async with asyncio.timeout(self._turn_timeout):
                    await permit.enter_async_context(self._look_ups)
            except TimeoutError:
                if self._window.count(network) >= self._per_minute:
                    raise self._refusal(network) from None
            yield

    def add(self, address: str) -> None:
        """Count a failure. Raises `AuthenticationLimitException` for one over the limit, which is not counted."""
        network = _network(address)
        if self._window.count(network) >= self._per_minute:
            raise self._refusal(network)
        self._window.add(network)

    def _refusal(self, network: str) -> AuthenticationLimitException:
        return AuthenticationLimitException(retry_after=max(1.0, self._window.until_less(network)))


class QuotaHeadersMiddleware(HttpMiddleware):
    """``RateLimit-*`` on whatever is answered to a known key (draft-ietf-httpapi-ratelimit-headers-06)."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})

        async def send_with_quota(message: Message) -> None:
            quota: Quota | None = state.get(_STATE)
            if quota is not None and message["type"] == "http.response.start":
                numbers = (quota.limit, quota.remaining, math.ceil(quota.reset))
                MutableHeaders(scope=message).update(dict(zip(QUOTA_HEADERS, map(str, numbers), strict=True)))
            await send(message)

        await self.app(scope, receive, send_with_quota)


async def _count_shared(window: MovingWindowRateLimiter, name: str, limit: int) -> Quota:
    item = RateLimitItemPerMinute(limit)
    is_allowed = await window.hit(item, name)
    stats = await window.get_window_stats(item, name)
    reset = min(max(stats.reset_time - time.time(), 0.0), MINUTE)
    return Quota(limit, max(stats.remaining, 0), reset, is_exceeded=not is_allowed)


def _network(address: str) -> str:
    """Return the network of an address, of IPv6 the /64: one client has all of its addresses."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))
