"""`python -m app authorize accounts.csv`: a batch made, or found again, followed to its end, and reported."""

import asyncio
import csv
import hashlib
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.config import Settings
from app.context import Context, open_context
from app.models import OPEN_STATUSES, SessionStatus
from app.services import batch_rows, batch_views
from app.services.batch_making import BatchOrder
from app.services.batch_rows import RowDefaults
from app.services.batch_service import PlacedBatch
from app.services.batch_views import BatchView, RowResult
from app.services.key_service import Caller, Scope
from app.services.workers.base import WorkerGroup
from app.utils.logger import setup_logging
from app.utils.tasks import happens_within

CALLER: Final = Caller("cli", frozenset({Scope.AUTHORIZE}))
COLUMNS: Final = ("row", "account_id", "api_app", "session_id", "existing", "status", "error_code", "error")

_POLL: Final = 0.5
_QUIET: Final = 20.0
"""Seconds without a start until the user is told that nobody works."""
_PAGE: Final = 2000


@dataclass(frozen=True)
class AuthorizeOptions:
    file: Path
    results: Path
    """Where what became of each row is written at the end."""
    api_app: str | None = None
    """For rows that do not say."""
    max_running: int | None = None
    stop_percent: int | None = None
    work: bool = False
    """Run the authorizations in this process, too."""
    again: bool = False
    """Make a new batch even if this file has made one."""


async def authorize_file(
    settings: Settings, options: AuthorizeOptions, *, out: Console, err: Console
) -> bool:
    """Whether every row was authorised. A signal ends the following, not the batch.

    Raises `InvalidRequestException`, `BatchEmptyException` and what else a batch is refused for.
    """
    content = options.file.read_bytes()
    with _signalled() as stopping:
        async with open_context(settings) as context:
            placed = await _place(context, content, options)
            with _progress(err, settings) as progress:
                progress.console.print(
                    _of_batch(placed, options), markup=False, highlight=False, soft_wrap=True
                )
                async with _working(context, is_wanted=options.work):
                    view = await _follow(context, placed.batch_id, stopping, progress, options)
            if view is None:
                _tell_how_to_go_on(err, placed.batch_id)
                return False
            results = await _results(context, placed.batch_id)
    write_results(options.results, results)
    _print_summary(out, view, results, options.results)
    return all(result.status is SessionStatus.COMPLETED for result in results)


def write_results(path: Path, results: Sequence[RowResult]) -> None:
    """The whole file or none of it."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8", newline=""
    ) as file:
        try:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(_line(result) for result in results)
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _line(result: RowResult) -> list[str]:
    values = dict(zip(COLUMNS, astuple(result), strict=True)) | {"status": _status(result)}
    values["existing"] = "yes" if result.existing else ""
    return ["" if value is None else str(value) for value in values.values()]


def _status(result: RowResult) -> str:
    if result.session_id is None:
        return "rejected"
    return result.status.value if result.status else "forgotten"


@contextmanager
def _signalled() -> Iterator[asyncio.Event]:
    """An event that Ctrl-C and SIGTERM set, in place of what they do otherwise."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    try:
        yield stopping
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _place(context: Context, content: bytes, options: AuthorizeOptions) -> PlacedBatch:
    """The same file with the same options is the same batch."""
    chosen = (options.api_app, options.max_running, options.stop_percent)
    source_hash = hashlib.sha256(content + repr(chosen).encode()).hexdigest()
    order = BatchOrder(
        batch_rows.from_csv(content, RowDefaults(options.api_app)),
        max_running=options.max_running,
        stop_percent=options.stop_percent,
    )
    async with context.database.transaction() as session:
        if options.again:
            await context.batches.forget_source(session, source_hash, caller=CALLER)
        return await context.batches.request(session, order, caller=CALLER, source_hash=source_hash)


def _of_batch(placed: PlacedBatch, options: AuthorizeOptions) -> str:
    if placed.is_new:
        return f"Batch {placed.batch_id} of {options.file}"
    return f"Batch {placed.batch_id}: {options.file} made it earlier; --again makes a new one"


@contextmanager
def _progress(err: Console, settings: Settings) -> Iterator[Progress]:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err, transient=True) as progress:
        if err.is_terminal:
            # `sys.stderr` is rich's stand-in now, which writes above the bar; the usual lines would drown it.
            setup_logging(level="WARNING", environment=settings.environment, stream=sys.stderr)
        yield progress


@asynccontextmanager
async def _working(context: Context, *, is_wanted: bool) -> AsyncIterator[None]:
    """The authorization worker of this process; at the end what it runs may end, the rest is released."""
    worker = context.workers.named("authorization")
    group = WorkerGroup([worker] if is_wanted and worker is not None else [])
    group.start()
    try:
        yield
    finally:
        await group.stop(grace=context.settings.shutdown_grace)


async def _follow(
    context: Context,
    batch_id: str,
    stopping: asyncio.Event,
    progress: Progress,
    options: AuthorizeOptions,
) -> BatchView | None:
    """The batch when it has ended; None when the user does not want to wait."""
    task = progress.add_task("waiting")
    ended, quiet_since, is_told = -1, monotonic(), options.work
    while True:
        async with context.database.reading() as session:
            view = await batch_views.view_batch(session, batch_id, caller=CALLER)
        left = sum(view.counts[status] for status in OPEN_STATUSES)
        progress.update(
            task, total=view.row.accepted, completed=view.row.accepted - left, description=_state(view)
        )
        if view.row.completed_at is not None and not left:
            return view
        if view.counts[SessionStatus.IN_PROGRESS] or view.row.accepted - left != ended:
            ended, quiet_since = view.row.accepted - left, monotonic()
        elif not is_told and monotonic() - quiet_since > _QUIET:
            is_told = True
            progress.console.print(
                f"Nothing has started for {_QUIET:g} s: does a service or a worker run? "
                "--work does the work in this process.",
                soft_wrap=True,
            )
        if await happens_within(stopping, _POLL):
            return None


def _state(view: BatchView) -> str:
    parts = [f"{count} {status}" for status, count in view.counts.items() if count and status != "pending"]
    if view.eta_seconds is not None:
        parts.append(f"about {view.eta_seconds:.0f} s left")
    return ", ".join(parts) or "waiting"


def _tell_how_to_go_on(err: Console, batch_id: str) -> None:
    err.print(
        f"The batch {batch_id} is not cancelled: a service or a worker goes on with it.\n"
        "To follow it again run the same command; to end it:\n"
        f"  python -m app batches cancel {batch_id}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


async def _results(context: Context, batch_id: str) -> list[RowResult]:
    found: list[RowResult] = []
    async with context.database.reading() as session:
        while True:
            page = len(found) // _PAGE + 1
            rows, total = await batch_views.page_of_results(
                session, batch_id, page=page, page_size=_PAGE, caller=CALLER
            )
            found.extend(rows)
            if len(found) >= total or not rows:
                return found


def _print_summary(out: Console, view: BatchView, results: Sequence[RowResult], path: Path) -> None:
    reason = f" ({view.row.reason})" if view.row.reason else ""
    lines = [f"Batch {view.row.batch_id}: {view.row.status}{reason}"]
    lines += [f"  {count:6} {status}" for status, count in Counter(map(_status, results)).most_common()]
    codes = Counter(result.error_code for result in results if result.error_code)
    if codes:
        lines += ["Errors:", *(f"  {count:6} {code}" for code, count in codes.most_common())]
    lines.append(f"Results: {path}")
    out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
