"""Waiters for the end of a session in this process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class SessionWaiters:
    """An end in another process is not told here: whoever waits looks now and then, too."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.is_closing = False
        """The service stops: nobody may wait any more."""

    @contextmanager
    def waiting(self, session_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the session ends, or when the service stops."""
        ended = asyncio.Event()
        self._waiting.setdefault(session_id, set()).add(ended)
        try:
            yield ended
        finally:
            self._waiting[session_id].discard(ended)
            if not self._waiting[session_id]:
                del self._waiting[session_id]

    def tell(self, session_id: str) -> None:
        for ended in self._waiting.get(session_id, ()):
            ended.set()

    def release_all(self) -> None:
        self.is_closing = True
        for session_id in list(self._waiting):
            self.tell(session_id)

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)
