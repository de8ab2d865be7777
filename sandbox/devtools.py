"""The few Chrome DevTools Protocol calls the sandbox makes, each over a websocket of its own."""

import json
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

OPEN_TIMEOUT = 5.0  # seconds; the browser is on the same machine
CLOSE_TIMEOUT = 1.0  # seconds; a dead one never answers the closing handshake


class DevToolsError(Exception):
    """The browser refused a command."""


def read_ws_url(profile_dir: Path) -> str | None:
    """The websocket URL from `DevToolsActivePort`; None until Chromium has written both of its lines."""
    try:
        lines = (profile_dir / "DevToolsActivePort").read_text().split("\n")
    except FileNotFoundError:
        return None
    if len(lines) < 2 or not lines[1].startswith("/devtools/browser/"):
        return None
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


async def command(ws_url: str, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Sends one command to the browser and returns its result.

    Raises `DevToolsError`, `OSError` or `websockets.WebSocketException`. Once connected there is no deadline.
    """
    async with connect(
        ws_url,
        proxy=None,
        compression=None,
        max_size=None,
        open_timeout=OPEN_TIMEOUT,
        close_timeout=CLOSE_TIMEOUT,
    ) as socket:
        await socket.send(json.dumps({"id": 1, "method": method, "params": params or {}}))
        async for message in socket:
            reply = json.loads(message)
            if reply.get("id") == 1:
                return _result(method, reply)
    raise DevToolsError(f"{method}: the browser hung up")


def _result(method: str, reply: dict[str, Any]) -> dict[str, Any]:
    if "error" in reply:
        raise DevToolsError(f"{method}: {reply['error'].get('message')}")
    result: dict[str, Any] = reply["result"]
    return result
