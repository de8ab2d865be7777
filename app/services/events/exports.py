"""Events as files: so many at once, for so long, and only while whoever asked may read them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from app.database import Database
from app.models import Event
from app.services.events import queries
from app.services.events.filters import EventFilter
from app.utils.exceptions import TooManyExportsException


@dataclass(frozen=True)
class ExportLimits:
    exports: int
    """Ceiling of exports at once in this process."""
    exports_per_key: int
    lifetime: float
    """Seconds, then it is broken off."""
    page_size: int = queries.EXPORT_PAGE_SIZE
    """Events of one part."""


class ExportBrokenOff(Exception):
    """An export ended in the middle of its file."""

    def __init__(self, reason: Literal["lifetime", "access"]) -> None:
        super().__init__(reason)
        self.reason = reason


class EventExports:
    """All of this process."""

    def __init__(self, *, database: Database, limits: ExportLimits) -> None:
        self._database = database
        self.limits = limits
        self.running: list[str] = []
        """The names of their keys."""

    @contextmanager
    def open(self, key_name: str) -> Iterator[None]:
        """Counts as one for as long as the block runs. Raises `TooManyExportsException`."""
        for subject, number, limit in (
            ("This API key", self.running.count(key_name), self.limits.exports_per_key),
            ("The service", len(self.running), self.limits.exports),
        ):
            if number >= limit:
                raise TooManyExportsException(subject, limit)
        self.running.append(key_name)
        try:
            yield
        finally:
            self.running.remove(key_name)

    async def parts(
        self, filters: EventFilter, may_read: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[Sequence[Event]]:
        """All that are wanted, the latest first. Raises `ExportBrokenOff`; `may_read` is asked before each part."""
        ends_at = monotonic() + self.limits.lifetime
        async for part in queries.export(self._database, filters, page_size=self.limits.page_size):
            if monotonic() >= ends_at:
                raise ExportBrokenOff("lifetime")
            if not await may_read():
                raise ExportBrokenOff("access")
            yield part
