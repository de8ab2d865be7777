"""Counts running browsers all the time, from the kernel's list of processes."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.e2e.processes import find_settled, running_profiles

EVERY = 0.05
"""Seconds between two looks, which take a tenth of that; a browser lives for half a second at least."""


@dataclass
class SeenBrowsers:
    most: int = 0
    """Browsers at one moment."""
    most_of_one_profile: int = 0


@asynccontextmanager
async def watched_browsers(starter: int, marker: str) -> AsyncIterator[SeenBrowsers]:
    """Browsers of process `starter` whose profile folder's path contains `marker`, looked at while the block runs."""
    seen, stop = SeenBrowsers(), threading.Event()
    thread = threading.Thread(target=_watch, args=(starter, marker, seen, stop))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)


def _watch(starter: int, marker: str, seen: SeenBrowsers, stop: threading.Event) -> None:
    settled = find_settled()
    while not stop.wait(EVERY):
        running = running_profiles(starter, marker, settled)
        seen.most = max(seen.most, len(running))
        seen.most_of_one_profile = max([seen.most_of_one_profile, *Counter(running).values()])
