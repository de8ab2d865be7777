"""The request id: minted or taken at the edge, bound to the context, carried by every log line and event."""

import re
import uuid
from typing import Final

import structlog

_ACCEPTED: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def accept_request_id(value: str | None) -> str:
    """The caller's id when it is harmless in a log, else a new one."""
    return value if value and _ACCEPTED.fullmatch(value) else str(uuid.uuid4())


def current_request_id() -> str | None:
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    return request_id if isinstance(request_id, str) else None
