"""Everything that can die dies, at random moments, while sessions are asked for; then the end of each is checked.

`make chaos N=200 SEED=1` runs it at length, the suite shortly: both through `test_chaos.py`.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import psutil

from sandbox.demo.service_process import ServiceProcess
from tests.e2e.harness import APP, ServiceHarness
from tests.e2e.own_postgresql import OwnPostgresql
from tests.e2e.processes import children_named

LEASE: Final = 3.0
SETTINGS: Final[dict[str, Any]] = {
    "lease_seconds": LEASE,
    "retry_wait": 0.2,
    "max_attempts": 50,
    "app_pause_after": 1000,
    "max_concurrent_profiles": 4,
    "gologin_requests_per_minute": 10_000,
    "gologin_api_timeout": 5,
    "profile_start_timeout": 15,
    "profile_stop_timeout": 12,
    "browser_attach_timeout": 10,
    "authorization_timeout": 40,
    "page_load_timeout": 5,
    "consent_button_timeout": 5,
    "callback_timeout": 5,
    "oauth_api_timeout": 3,
    "cleanup_interval": 10,
    "monitor_interval": 5,
}
"""Most deadlines are short, and attempts are plenty, so that only what must end a session does. Not so a
profile's start and stop: one that cannot be stopped in time is quarantined, also on a machine that is only busy."""

_AT_ONCE: Final = 8
_LONGEST_PER_SESSION: Final = 20.0
"""Seconds, on average, until the faults are cleared all the same; it takes two on an idle machine."""
_QUIET_TIME: Final = 180.0
"""Seconds for what is left when nothing is broken any more."""

TRANSIENT: Final[Sequence[tuple[str, str, dict[str, Any]]]] = (
    ("local.start", "status", {"status": 500}),
    ("local.start", "hang", {}),
    ("local.start", "drop_after", {}),
    ("local.start", "start_hang_running", {}),
    ("local.start", "start_then_kill", {}),
    ("local.start", "no_ws_url", {}),
    ("local.stop", "status", {"status": 500}),
    ("local.stop", "hang", {}),
    ("provider.authorize", "hang", {}),
    ("provider.authorize", "kill_browser", {}),
    ("provider.authorize", "wrong_state", {}),
    ("provider.consent_data", "kill_browser", {}),
    ("provider.consent", "hang", {}),
    ("provider.consent", "hang_after", {}),
    ("provider.consent", "kill_browser", {}),
    ("provider.token", "status", {"status": 503}),
    ("provider.token", "hang", {}),
    ("provider.token", "drop", {}),
    ("provider.token", "drop_after", {}),
    ("provider.token", "hang_after", {}),
    ("provider.me", "status", {"status": 503}),
    ("provider.me", "drop", {}),
    ("provider.me", "rate_limited", {"seconds": 2}),
)
"""Struck once, or twice, and then over: the session is completed all the same."""

LASTING: Final[dict[str, str]] = {
    "signed_out": "LOGIN_REQUIRED",
    "locked": "ACCOUNT_LOCKED",
    "human_check": "HUMAN_CHECK_REQUIRED",
    "declined": "CONSENT_DECLINED",
    "wrong_account": "ACCOUNT_MISMATCH",
    "error_page": "CONSENT_PAGE_ERROR",
}
"""Of the account or the app; the session ends with this code if it comes so far while the fault is set."""


@dataclass
class RequestedSession:
    account: str
    fits: set[str | None] = field(default_factory=lambda: {None})
    """The error codes with which it may end; None: completed."""
    session_id: str = ""
    answers: Counter[str] = field(default_factory=Counter)
    """What the POST was answered until it was accepted."""


@dataclass
class Record:
    """What was done, for the checks and the table."""

    asked: list[RequestedSession] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    struck_at: list[tuple[str, float]] = field(default_factory=list)
    """What interrupts sessions, and its unix time."""
    drivers: set[psutil.Process] = field(default_factory=set)
    """Every chromedriver that was seen; a process id alone may be another process's by the end."""
    seconds: float = 0.0


class Chaos:
    """`processes`: the service, which answers HTTP, and any number of workers beside it."""

    def __init__(
        self,
        harness: ServiceHarness,
        processes: Sequence[ServiceProcess],
        *,
        seed: int,
        postgresql: OwnPostgresql | None = None,
    ) -> None:
        self._house = harness
        self._processes = processes
        self._postgresql = postgresql
        self._random = random.Random(seed)
        self._following: list[asyncio.Task[None]] = []
        self.record = Record()

    async def run(self, accounts: Sequence[str]) -> Record:
        """Ask for all accounts while things die; then let what is left come to its end."""
        began = time.monotonic()
        gate = asyncio.Semaphore(_AT_ONCE)
        self._following = [asyncio.create_task(self._one(account, gate)) for account in accounts]
        breaking = asyncio.create_task(self._break_things())
        await asyncio.wait([breaking], timeout=len(accounts) * _LONGEST_PER_SESSION)
        breaking.cancel()
        await asyncio.wait([breaking])
        await self._house.admin.clear_faults()
        async with asyncio.timeout(_QUIET_TIME):
            await asyncio.gather(*self._following)
        if not breaking.cancelled():
            breaking.result()
        self.record.seconds = time.monotonic() - began
        return self.record

    # The callers

    async def _one(self, account: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            asked = RequestedSession(account)
            self.record.asked.append(asked)
            await self._set_faults(asked)
            await self._post(asked)
            while not await self._has_ended(asked.session_id):
                await asyncio.sleep(0.1)
            await self._house.admin.clear_faults(account)

    async def _set_faults(self, asked: RequestedSession) -> None:
        dice = self._random.random()
        if dice < 0.12:
            kind = self._random.choice(sorted(LASTING))
            asked.fits.add(LASTING[kind])
            await self._house.admin.set_fault("provider.authorize", kind, account=asked.account)
        elif dice < 0.6:
            for endpoint, kind, details in self._random.sample(TRANSIENT, k=self._random.choice([1, 1, 2])):
                times = 1 if endpoint == "local.stop" else self._random.choice([1, 1, 2])
                await self._house.admin.set_fault(
                    endpoint, kind, account=asked.account, times=times, **details
                )
                self.record.done[f"fault {endpoint} {kind}"] += 1

    async def _post(self, asked: RequestedSession) -> None:
        """As a caller should: the same request under the same key until it is answered."""
        headers = {"Idempotency-Key": f"chaos-{asked.account}"}
        body = {"account_id": asked.account, "api_app": APP}
        while not asked.session_id:
            try:
                answer = await self._call("POST", "/authorize", headers=headers, json=body)
            except httpx.HTTPError as error:
                asked.answers[type(error).__name__] += 1
            else:
                asked.answers[f"{answer.status_code} {answer.json()['error_code']}"] += 1
                if answer.is_success:
                    asked.session_id = answer.json()["data"]["session_id"]
                    return
            await asyncio.sleep(0.1)

    async def _has_ended(self, session_id: str) -> bool:
        with suppress(httpx.HTTPError):
            answer = await self._call("GET", f"/authorize/{session_id}", headers={"Prefer": "wait=2"})
            return answer.is_success and answer.json()["data"]["completed_at"] is not None
        return False

    async def _call(self, method: str, path: str, *, headers: dict[str, str], **more: Any) -> httpx.Response:
        headers = {"X-API-Key": self._house.key, **headers}
        async with httpx.AsyncClient(base_url=self._processes[0].url, trust_env=False, timeout=10) as http:
            return await http.request(method, path, headers=headers, **more)

    # What dies

    async def _break_things(self) -> None:
        """A shuffled deck, again and again, until all sessions have ended: each kind comes early.

        A blow falls when one or two sessions have ended since the last one: so a slow machine ends, too.
        """
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "kill -9 of a process": self._kill_process,
            "kill -9 of chromedriver": self._kill_driver,
            "kill -9 of a browser": self._kill_browser,
            "SIGSTOP for over a lease": self._freeze,
        }
        if self._postgresql is not None:
            kinds["kill -9 of PostgreSQL"] = self._restart_database
        while True:
            for kind in self._random.sample(sorted(kinds), k=len(kinds)):
                await self._some_have_ended(self._random.choice([1, 1, 2]))
                await asyncio.sleep(self._random.uniform(0.0, 1.5))
                if all(task.done() for task in self._following):
                    return
                self.record.struck_at.append((kind, time.time()))
                await kinds[kind]()

    async def _some_have_ended(self, count: int) -> None:
        running = [task for task in self._following if not task.done()]
        for _ in range(min(count, len(running))):
            _, still = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running = list(still)

    def _drivers(self, process: ServiceProcess) -> list[int]:
        with suppress(psutil.NoSuchProcess):
            found = children_named(process.pid, "chromedriver")
            self.record.drivers.update(map(psutil.Process, found))
            return found
        return []

    async def _kill_process(self) -> None:
        process = self._random.choice(self._processes)
        self._drivers(process)
        await process.kill()
        await process.start()
        self.record.done["kill -9 of a process"] += 1

    async def _kill_driver(self) -> None:
        for pid in self._drivers(self._random.choice(self._processes)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.record.done["kill -9 of chromedriver"] += 1

    async def _kill_browser(self) -> None:
        if running := await self._house.admin.browsers():
            with suppress(httpx.HTTPError):  # it has gone by itself
                await self._house.admin.kill_browser(self._random.choice(running).profile_id)
                self.record.done["kill -9 of a browser"] += 1

    async def _freeze(self) -> None:
        process = self._random.choice(self._processes)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(LEASE + self._random.uniform(0.5, 2.0))
        finally:
            os.kill(process.pid, signal.SIGCONT)
        self.record.done["SIGSTOP for over a lease"] += 1

    async def _restart_database(self) -> None:
        assert self._postgresql is not None
        away = self._random.choice([0.0, 0.3, LEASE / 2, LEASE * 1.5])
        await self._postgresql.restart(lambda: asyncio.sleep(away))
        self.record.done["kill -9 of PostgreSQL"] += 1
