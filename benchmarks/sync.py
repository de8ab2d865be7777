"""Seconds, database statements and memory of a profile sync, against the naive way.

    make bench ARGS=sync

Four passes over the sandbox's list: all new, nothing changed, 1 % renamed with 1 % gone and 1 % new, nothing changed
again. The baseline reads the same pages in the same run and brings each row up to date by itself, as a loop over an
ORM would; it stops after 3,000 profiles, and the comparison is per profile. SQLite in a temporary folder.
"""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import psutil
from sqlalchemy import event, select

from app.config import load_settings
from app.context import Context, open_context
from app.database import Database
from app.models import Profile, utc_now
from app.services.profiles.sync import SyncResult
from benchmarks.figures import Figure, compared
from sandbox.demo.service_process import settings_for
from sandbox.process import SandboxProcess

NAIVE_PAGES = 100
ROWS_A_PAGE = 30


@asynccontextmanager
async def opened(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[Context]:
    environment = settings_for(sandbox.info, folder=folder, gologin_requests_per_minute=1_000_000)
    settings = load_settings(env_file=None, **{name.lower(): value for name, value in environment.items()})
    database = Database(settings.database_url.get_secret_value(), pool_size=1)
    await database.migrate()
    await database.close()
    async with open_context(settings) as context:
        yield context


async def measured(
    context: Context, work: Callable[[], Awaitable[object]]
) -> tuple[float, float, int, object]:
    """Seconds, peak growth of the resident set in MB, database statements, and the result."""
    process, statements, peak = psutil.Process(), 0, 0
    before = process.memory_info().rss

    def count(*_: object) -> None:
        nonlocal statements, peak
        statements += 1
        peak = max(peak, process.memory_info().rss)

    event.listen(context.database.engine.sync_engine, "before_cursor_execute", count)
    began = perf_counter()
    result = await work()
    seconds = perf_counter() - began
    event.remove(context.database.engine.sync_engine, "before_cursor_execute", count)
    return seconds, max(0, peak - before) / 2**20, statements, result


async def change(sandbox: SandboxProcess, profiles: int) -> None:
    """1 % renamed, 1 % gone, 1 % new, spread over the list."""
    accounts, step = sandbox.info.accounts, 100
    for account in accounts[0:profiles:step]:
        await sandbox.admin.rename_profile(account, f"{account}_x")
    for account in accounts[50:profiles:step]:
        await sandbox.admin.remove_profile(account)
    for number in range(len(accounts[0:profiles:step])):
        await sandbox.admin.add_profile(f"new_{number}")


async def naive(context: Context) -> int:
    """A query and a commit for each row."""
    seen = 0
    for page in range(1, NAIVE_PAGES + 1):
        rows = (await context.fleet.client.list_profiles(page)).profiles
        for row in rows:
            async with context.database.transaction() as db:
                profile = await db.scalar(select(Profile).where(Profile.profile_id == row.id))
                if profile is None:
                    profile = Profile(profile_id=row.id)
                    db.add(profile)
                profile.profile_name, profile.last_synced, profile.is_active = row.name, utc_now(), True
        seen += len(rows)
    return seen


async def figures(*, is_long: bool) -> list[Figure]:
    profiles = 40_000 if is_long else 6_000
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        async with SandboxProcess(accounts=profiles) as sandbox, opened(sandbox, Path(name)) as context:
            return await compare(context, sandbox, profiles)


async def compare(context: Context, sandbox: SandboxProcess, profiles: int) -> list[Figure]:
    milliseconds, found = {}, []
    for title in ("first", "no change", "1 % renamed, gone, new", "no change again"):
        if title.startswith("1 %"):
            await change(sandbox, profiles)
        seconds, megabytes, statements, result = await measured(context, context.fleet.gologin.sync_profiles)
        assert isinstance(result, SyncResult)
        milliseconds[title] = seconds / profiles * 1000
        found += [
            Figure(f"sync of {profiles:,} profiles, {title}", statements / result.pages, "statements a page"),
            Figure(f"sync of {profiles:,} profiles, {title}: peak of memory", megabytes, "MB"),
        ]
    seconds, _, _, seen = await measured(context, lambda: naive(context))
    assert isinstance(seen, int)
    name, own = f"sync of {profiles:,} profiles, no change", milliseconds["no change"]
    each = compared(
        name, own, "ms a profile", baseline="a query and a commit a profile", to=seconds / seen * 1000
    )
    return [each, *found]
