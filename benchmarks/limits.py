"""An authorization against the browser's limit: the service, raw CDP without it, and a script, in one run.

    make bench ARGS=limits

All three start and stop the browser by the same local API: the service; raw CDP over one websocket, without a driver;
a script with Selenium, a chromedriver of its own for each account, and waits that poll every 0.5 s. They take turns,
so that other load meets all of them. Seconds end with the who-am-I of the new token; the browser's stop is not in
them, but in the rate and in the CPU. Figures are medians of the rounds, ratios medians of the rounds' ratios.
"""

import asyncio
import ctypes
import os
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import httpx
import psutil

from benchmarks.figures import Figure, Goal, at_least, at_most
from benchmarks.flows import APP, run_raw, run_script
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

AT_ONCE, FEW = 10, 3
SERVICE, NO_GATE, RAW, SCRIPT = "service", "service without the gate", "raw CDP", "script"
PROCESSES = ("own", "chromedriver", "chromium")
_BROWSER_NAMES = ("chromium", "chrome", "exe")  # Chromium names its helpers after /proc/self/exe
_SUBREAPER = 36  # prctl(2), PR_SET_CHILD_SUBREAPER


class Cpu:
    """CPU seconds by kind of process, those that have ended included.

    Chromium's helpers outlive their browser for a moment. They are inherited here, and so is their CPU: no process of
    a browser is missed, which samples would do.
    """

    def __init__(self, sandbox_pid: int) -> None:
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        self._sandbox = psutil.Process(sandbox_pid)
        self._orphans = 0.0
        self._watching = 0.0
        """CPU seconds of this process that no flow has used."""

    @asynccontextmanager
    async def inherit(self) -> AsyncIterator[None]:
        async def reap() -> None:
            while True:
                await asyncio.sleep(0.05)
                self._reap()

        task = asyncio.create_task(reap())
        try:
            yield
        finally:
            task.cancel()

    async def wait_until_stopped(self, sandbox: SandboxProcess) -> None:
        """Wait until no browser runs; what the looks cost is not part of a flow."""
        before = time.thread_time()
        async with asyncio.timeout(60):
            while await sandbox.admin.browsers():
                await asyncio.sleep(0.02)
        self._watching += time.thread_time() - before

    def _reap(self) -> None:
        began = time.thread_time()
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                if child.status() == psutil.STATUS_ZOMBIE and child.name() in _BROWSER_NAMES:
                    usage = os.wait4(child.pid, 0)[2]
                    self._orphans += usage.ru_utime + usage.ru_stime
        self._watching += time.thread_time() - began

    def read(self, service: ServiceProcess | None) -> dict[str, float]:
        """`service`: None for flows that run in this process."""
        browsers = self._sandbox.cpu_times()
        chromium = browsers.children_user + browsers.children_system + self._orphans
        if service is None:
            own, drivers = time.process_time() - self._watching, resource.getrusage(resource.RUSAGE_CHILDREN)
            driver_seconds = drivers.ru_utime + drivers.ru_stime - self._orphans
        else:
            process = psutil.Process(service.pid)
            own = sum(process.cpu_times()[:2])
            driver_seconds = sum(sum(each.cpu_times()[:2]) for each in process.children())
        return {"own": own, "chromedriver": driver_seconds, "chromium": chromium}


@dataclass
class Target:
    name: str
    authorize: Callable[[str], Awaitable[float]]
    """Authorize an account; the seconds until its tokens are there."""
    service: ServiceProcess | None = None
    seconds: list[float] = field(default_factory=list)
    a_minute: list[float] = field(default_factory=list)
    at_once_seconds: list[float] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in PROCESSES})


async def measure(target: Target, sandbox: SandboxProcess, cpu: Cpu, accounts: Sequence[str]) -> None:
    """One round: some accounts one after the other, then all of them, ten at once."""
    seconds = []
    for account in accounts[:FEW]:
        seconds.append(await target.authorize(account))
        await cpu.wait_until_stopped(sandbox)
    gate, before, began = asyncio.Semaphore(AT_ONCE), cpu.read(target.service), perf_counter()

    async def gated(account: str) -> float:
        async with gate:
            return await target.authorize(account)

    at_once = await asyncio.gather(*map(gated, accounts))
    await cpu.wait_until_stopped(sandbox)
    target.a_minute.append(len(accounts) / (perf_counter() - began) * 60)
    await asyncio.sleep(0.2)  # until the last helpers are reaped
    after = cpu.read(target.service)
    for kind in PROCESSES:
        target.cpu[kind].append((after[kind] - before[kind]) / len(accounts))
    target.seconds.append(statistics.median(seconds))
    target.at_once_seconds.append(statistics.median(at_once))


async def figures(*, is_long: bool) -> list[Figure]:
    rounds, accounts = (5, 40) if is_long else (2, 20)
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(SandboxProcess(accounts=accounts))
        cpu = Cpu(sandbox.pid)
        await stack.enter_async_context(cpu.inherit())
        targets = [await with_service(stack, sandbox, SERVICE), *await by_hand(stack, sandbox)]
        if is_long:
            limit = {"profile_starts_at_once": AT_ONCE}
            targets.append(await with_service(stack, sandbox, NO_GATE, **limit))
        for target in targets:  # the first start of a profile is slower
            await asyncio.gather(*map(target.authorize, sandbox.info.accounts[:FEW]))
            await cpu.wait_until_stopped(sandbox)
        for _ in range(rounds):
            for target in targets:
                await measure(target, sandbox, cpu, sandbox.info.accounts)
    return table({target.name: target for target in targets})


async def with_service(
    stack: AsyncExitStack, sandbox: SandboxProcess, name: str, **changes: object
) -> Target:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
    settings = settings_for(sandbox.info, folder=folder, rate_limit_per_minute=1_000_000, **changes)
    service = await stack.enter_async_context(ServiceProcess(folder, settings))
    headers = {"X-API-Key": settings["API_KEY"], "Prefer": "wait=60"}
    http = await stack.enter_async_context(
        httpx.AsyncClient(base_url=service.url, headers=headers, timeout=90, trust_env=False)
    )
    await synced(http)

    async def authorize(account: str) -> float:
        began = perf_counter()
        answer = (await http.post("/authorize", json={"account_id": account, "api_app": APP})).json()
        while answer["success"] and answer["data"]["status"] in ("pending", "in_progress"):
            answer = (await http.get(f"/authorize/{answer['data']['session_id']}")).json()
        seconds = perf_counter() - began
        if not answer["success"] or answer["data"]["status"] != "completed":
            raise RuntimeError(f"{account}: {answer}")
        return seconds

    return Target(name, authorize, service)


async def by_hand(stack: AsyncExitStack, sandbox: SandboxProcess) -> list[Target]:
    info, threads = sandbox.info, ThreadPoolExecutor(AT_ONCE)
    stack.callback(threads.shutdown)
    profiles = {account: (await sandbox.admin.profile(account)).id for account in info.accounts}
    http = await stack.enter_async_context(httpx.AsyncClient(timeout=60, trust_env=False))

    async def raw(account: str) -> float:
        return await run_raw(http, info, profiles[account])

    async def script(account: str) -> float:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, run_script, info, profiles[account])

    return [Target(RAW, raw), Target(SCRIPT, script)]


async def synced(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while not any(
            worker["name"] == "sync" and worker["last_success"]
            for worker in (await http.get("/health/ready")).json()["data"]["workers"]
        ):
            await asyncio.sleep(0.1)


def table(targets: dict[str, Target]) -> list[Figure]:
    service, found = targets[SERVICE], []
    goals = {
        RAW: (at_most(1.05), at_least(0.95), at_most(1.06)),
        SCRIPT: (None, at_least(1.1), None),
        NO_GATE: (None, None, None),
    }
    for name, (alone, rate, cpu) in goals.items():
        if (other := targets.get(name)) is None:
            continue
        found += [
            compare("alone", "s", service.seconds, other.seconds, name, alone),
            compare(f"{AT_ONCE} at once", "a minute", service.a_minute, other.a_minute, name, rate),
            compare(f"{AT_ONCE} at once, each", "s", service.at_once_seconds, other.at_once_seconds, name),
            compare("CPU of all processes", "s", total_cpu(service), total_cpu(other), name, cpu),
        ]
    own = statistics.median(service.cpu["own"])
    found.append(Figure("authorization: CPU of the service's process", own, "s", goal=at_most(0.04)))
    for kind in PROCESSES[1:]:
        found.append(compare(f"CPU of {kind}", "s", service.cpu[kind], targets[RAW].cpu[kind], RAW))
    return found


def total_cpu(target: Target) -> list[float]:
    return [sum(parts) for parts in zip(*target.cpu.values(), strict=True)]


def compare(
    figure: str, unit: str, values: list[float], base: list[float], name: str, goal: Goal | None = None
) -> Figure:
    """Return the median of the service's rounds, with the median of the rounds' ratios."""
    ratios = [own / other for own, other in zip(values, base, strict=True) if other > 0]
    value, base_value = statistics.median(values), statistics.median(base)
    ratio = statistics.median(ratios) if ratios else None
    return Figure(f"authorization: {figure}", value, unit, name, base_value, ratio, goal)
