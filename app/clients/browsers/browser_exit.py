"""The end of a browser: its process has gone, and with it the lock on its profile, which is written by then.

The end of the DevTools connection comes first, while the browser still writes its cookies.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection

from app.utils.hosts import is_loopback
from app.utils.processes import has_ended

_POLL: Final = 0.02
_ASK_TIMEOUT: Final = 1.0
"""Seconds for the browser to tell its process, which takes it a millisecond."""
SETTLE_SECONDS: Final = 2.0
"""Seconds that a browser is given to write its profile after its port has closed, where its process cannot be seen."""
_MARK: Final = b"--remote-debugging-p"
"""Part of the command line of every browser with a DevTools port; a container sees other processes by that number."""


async def find_process(socket: ClientConnection, ws_url: str) -> int | None:
    """The id of the browser's process; None when it runs where it cannot be seen, or does not tell."""
    host = urlsplit(ws_url).hostname or ""
    if sys.platform == "win32" or not is_loopback(host):
        return None
    try:
        async with asyncio.timeout(_ASK_TIMEOUT):
            await socket.send(json.dumps({"id": 1, "method": "SystemInfo.getProcessInfo"}))
            async for message in socket:
                if (reply := json.loads(message)).get("id") == 1:
                    return _visible(reply)
    except (TimeoutError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
        pass
    return None


async def wait_until_gone(ws_url: str, pid: int | None) -> None:
    """Return when the process has ended or, where it is not known, when the port refuses connections. No deadline."""
    if pid is not None:
        while not has_ended(pid):
            await asyncio.sleep(_POLL)
        return
    address = urlsplit(ws_url)
    while True:
        try:
            _, writer = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(_POLL)


def _visible(reply: dict[str, Any]) -> int | None:
    processes = reply.get("result", {}).get("processInfo", [])
    pid = next((each["id"] for each in processes if each.get("type") == "browser"), None)
    if not isinstance(pid, int) or pid <= 0 or has_ended(pid):
        return None
    try:
        return pid if _MARK in Path(f"/proc/{pid}/cmdline").read_bytes() else None
    except OSError:
        return None if Path("/proc/self").exists() else pid
