"""Tabs of the sessions that run in this process, for those who watch them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class LiveTab:
    """The tab of a running session."""

    ws_url: str
    """DevTools address of its browser."""
    front: Callable[[], str]
    """Returns the target id of the page in front: the session's own tab, or a window that the tab has opened."""
    person: threading.Event
    """Set while a person has something to do there."""


class LiveTabs:
    """Tabs by session id. Selenium's threads add and remove them, the event loop looks them up."""

    def __init__(self) -> None:
        self._tabs: dict[str, LiveTab] = {}

    @contextmanager
    def show(self, session_id: str, tab: LiveTab) -> Iterator[None]:
        """Let the tab be watched while the block runs."""
        self._tabs[session_id] = tab
        try:
            yield
        finally:
            if self._tabs.get(session_id) is tab:  # else a later attempt's
                del self._tabs[session_id]

    def get(self, session_id: str) -> LiveTab | None:
        return self._tabs.get(session_id)
