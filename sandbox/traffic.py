"""Traffic of the stand-ins: counts, and the last requests without any secret."""

import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from pydantic import BaseModel

from sandbox.faults import Call


class RequestRecord(BaseModel):
    """One answered request; `status` is None when no answer was sent (dropped, hung, client left)."""

    method: str
    endpoint: str
    account: str | None
    at: float
    seconds: float = 0.0
    status: int | None = None
    fault: str | None = None


class Stats(BaseModel):
    """Counts since the start (or the last `DELETE /stats`)."""

    requests: int
    by_endpoint: dict[str, int]
    by_account: dict[str, int]
    refreshes_by_account: dict[str, int]
    codes_reused: int
    """Authorization codes that were presented a second time, since the start."""
    refresh_tokens_reused_by_account: dict[str, int]
    """Refresh tokens that were presented after they had been spent, since the start."""
    browsers_running: int
    browsers_max: int


@dataclass(slots=True)
class RateWindow:
    """Calls of one app until `reset`, unix seconds."""

    limit: int
    reset: int
    calls: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that X sends with every answer."""
        return {
            "x-rate-limit-limit": str(self.limit),
            "x-rate-limit-remaining": str(max(0, self.limit - self.calls)),
            "x-rate-limit-reset": str(self.reset),
        }


class RateWindows:
    """Fixed windows: the first call opens one."""

    def __init__(self) -> None:
        self._open: dict[str, RateWindow] = {}

    def clear(self) -> None:
        self._open.clear()

    def count(self, key: str, limit: int, seconds: int) -> RateWindow:
        """The window with this call in it; it was one too many when there are more calls than the limit."""
        now = time.time()
        window = self._open.get(key)
        if window is None or window.reset <= now or window.limit != limit:
            window = self._open[key] = RateWindow(limit, math.ceil(now) + seconds)
        window.calls += 1
        return window


@dataclass(slots=True)
class Traffic:
    """Counters for everything, and full records of the last 10,000 requests."""

    records: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=10_000))
    by_endpoint: Counter[str] = field(default_factory=Counter)
    by_account: Counter[str] = field(default_factory=Counter)
    refreshes: Counter[str] = field(default_factory=Counter)
    token_windows: RateWindows = field(default_factory=RateWindows)

    def begin(self, method: str, call: Call) -> RequestRecord:
        """Counts the request and returns its record, which `RequestRecord.status` completes later."""
        record = RequestRecord(method=method, endpoint=call.endpoint, account=call.account, at=time.time())
        self.by_endpoint[call.endpoint] += 1
        if call.account is not None:
            self.by_account[call.account] += 1
        self.records.append(record)
        return record

    def last(
        self, limit: int, *, endpoint: str | None = None, account: str | None = None
    ) -> list[RequestRecord]:
        """The newest matching records, oldest first."""
        matching = [
            record
            for record in self.records
            if endpoint in (None, record.endpoint) and account in (None, record.account)
        ]
        return matching[-limit:]

    def clear(self) -> None:
        self.records.clear()
        self.by_endpoint.clear()
        self.by_account.clear()
        self.refreshes.clear()
