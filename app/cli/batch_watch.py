"""Follow a batch for `authorize`: create it, or find it again, watch it to its end, and report."""

import asyncio
import csv
import hashlib
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Final, Unpack, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.cli.backend import LocalClient
from app.client import AsyncClient, Batch, BatchRow
from app.client.options import BatchOptions
from app.services.batches import rows as batch_rows
from app.services.batches.creation import BatchCommand
from app.services.batches.rows import RowDefaults
from app.services.keys.service import COMMAND_LINE
from app.services.workers.base import WorkerGroup
from app.utils.foreign_text import neutralise, visible
from app.utils.logger import setup_logging
from app.utils.tasks import wait_for_event

COLUMNS: Final = ("row", "account_id", "api_app", "session_id", "existing", "status", "error_code", "error")

_FIRST_OPTIONS: Final = ("api_app", "max_running", "stop_percent")
_POLL: Final = 0.5
_SERVICE_POLL: Final = 2.0
"""Seconds; a key has 100 requests a minute, for its other users, too."""
_QUIET: Final = 20.0
"""Seconds without a start until the user gets the advice."""
_LOCAL_ADVICE: Final = "does a service or a worker run? --work does the work in this process."
_SERVICE_ADVICE: Final = "do the service's workers run? Its GET /health/ready says so."


@dataclass(frozen=True)
class BatchFileOptions:
    file: Path
    results: Path
    """File to which each row's result is written at the end."""
    api_app: str | None = None
    """App of rows that name none."""
    max_running: int | None = None
    stop_percent: int | None = None
    work: bool = False
    """Run the authorizations in this process, too."""
    again: bool = False
    """Make a new batch even if this file has made one."""
    batch_id: str | None = None
    """Make none, and follow this one."""


async def authorize_file(
    backend: AsyncClient, options: BatchFileOptions, *, out: Console, err: Console
) -> bool:
    """Authorize a file; return whether every row was authorised. A signal ends the following, not the batch.

    Raises `InvalidRequestException`, `BatchEmptyException` and what else a batch is refused for, or `ServiceError`.
    """
    content = options.file.read_bytes()
    with _catch_signals() as stopping:
        batch_id, is_new = await _find_or_create(backend, content, options)
        title = f"Batch {batch_id} of {options.file}"
        if not is_new and options.batch_id is None:
            title = f"Batch {batch_id}: {options.file} made it earlier; --again makes a new one"
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=err, transient=True) as progress:
            progress.console.print(visible(title), markup=False, highlight=False, soft_wrap=True)
            async with _run_worker(backend, options, is_quiet=err.is_terminal):
                batch = await _follow(backend, batch_id, stopping, progress, options)
        if batch is None:
            _print_how_to_continue(err, batch_id)
            return False
        results = [row async for row in backend.batch_results(batch_id)]
    write_results(options.results, results)
    _print_summary(out, batch, results, options.results)
    return all(result.status == "completed" for result in results)


async def place_batch(
    backend: AsyncClient, content: bytes, *, source: str, again: bool, **options: Unpack[BatchOptions]
) -> tuple[str, bool]:
    """Create the batch of a CSV, or find the one of the same `source`; return its id, and whether it is new.

    The database knows a source for ever, and forgets it with `again`; a service for 24 hours, the life of an
    idempotency key, and one that was made `again` not at all.
    """
    if not isinstance(backend, LocalClient):
        batch = await backend.make_batch(content, idempotency_key=None if again else source, **options)
        return batch.batch_id, not batch.existing
    context = backend.context
    defaults, max_rows = RowDefaults(options.get("api_app")), context.settings.max_batch_rows
    command = BatchCommand(
        batch_rows.from_csv(content, defaults, max_rows=max_rows),
        max_running=options.get("max_running"),
        stop_percent=options.get("stop_percent"),
    )
    async with context.database.transaction() as db:
        if again:
            await context.sessions.batches.forget_source(db, source, caller=COMMAND_LINE)
        result = await context.sessions.batches.request(db, command, caller=COMMAND_LINE, source_hash=source)
    return result.batch_id, result.is_new


def write_results(path: Path, results: Sequence[BatchRow]) -> None:
    """Write a line for each row: the whole file or none of it."""
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


def _line(result: BatchRow) -> list[str]:
    values = asdict(result) | {"status": _status(result)}
    values["existing"] = "yes" if result.existing else ""
    return ["" if values[name] is None else neutralise(str(values[name])) for name in COLUMNS]


def _status(result: BatchRow) -> str:
    if result.session_id is None:
        return "rejected"
    return result.status or "forgotten"


@contextmanager
def _catch_signals() -> Iterator[asyncio.Event]:
    """Yield an event that Ctrl-C and SIGTERM set, instead of ending the process."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    try:
        yield stopping
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _find_or_create(
    backend: AsyncClient, content: bytes, options: BatchFileOptions
) -> tuple[str, bool]:
    """Return the batch's id, and whether it is new: the same file with the same options is the same batch."""
    if options.batch_id is not None:
        return options.batch_id, False
    batch_options = {
        "api_app": options.api_app,
        "max_running": options.max_running,
        "stop_percent": options.stop_percent,
    }
    source = hash_source(content, batch_options)
    present = cast(BatchOptions, {name: value for name, value in batch_options.items() if value is not None})
    return await place_batch(backend, content, source=source, again=options.again, **present)


@asynccontextmanager
async def _run_worker(
    backend: AsyncClient, options: BatchFileOptions, *, is_quiet: bool
) -> AsyncIterator[None]:
    """Run the authorization worker in this process for `--work`; at the end its running sessions may finish."""
    if not isinstance(backend, LocalClient):
        yield
        return
    context = backend.context
    if is_quiet:
        # `sys.stderr` is rich's stand-in now, which writes above the bar; the usual lines would drown it.
        setup_logging(level="WARNING", environment=context.settings.environment, stream=sys.stderr)
    worker = context.workers.get("authorization")
    group = WorkerGroup([worker] if options.work and worker is not None else [])
    group.start()
    try:
        yield
    finally:
        await group.stop(grace=context.settings.shutdown_grace)


def hash_source(content: bytes, options: Mapping[str, object]) -> str:
    """Return the key of the batch that a file makes with these options; one that is None is not given.

    Batches are found by it for ever. So the first three options stand as the first release wrote them, and a later
    one joins only where it is given.
    """
    first = tuple(options.get(name) for name in _FIRST_OPTIONS)
    later_options = {
        name: value for name, value in options.items() if value is not None and name not in _FIRST_OPTIONS
    }
    suffix = json.dumps(later_options, sort_keys=True) if later_options else ""
    return hashlib.sha256(content + f"{first!r}{suffix}".encode()).hexdigest()


async def _follow(
    backend: AsyncClient,
    batch_id: str,
    stopping: asyncio.Event,
    progress: Progress,
    options: BatchFileOptions,
) -> Batch | None:
    """Return the batch when it has ended; None when the user does not want to wait."""
    is_local = isinstance(backend, LocalClient)
    poll, advice = (_POLL, _LOCAL_ADVICE) if is_local else (_SERVICE_POLL, _SERVICE_ADVICE)
    task = progress.add_task("waiting")
    ended, quiet_since, is_advised = -1, monotonic(), options.work
    while True:
        batch = await backend.batch(batch_id)
        finished = batch.accepted - batch.open
        parts = [
            f"{count} {status}" for status, count in batch.counts.items() if count and status != "pending"
        ]
        if batch.eta_seconds is not None:
            parts.append(f"about {batch.eta_seconds:.0f} s left")
        state = visible(", ".join(parts)) or "waiting"
        progress.update(task, total=batch.accepted, completed=finished, description=state)
        if batch.is_ended:
            return batch
        if batch.counts.get("in_progress") or finished != ended:
            ended, quiet_since = finished, monotonic()
        elif not is_advised and monotonic() - quiet_since > _QUIET:
            is_advised = True
            progress.console.print(f"Nothing has started for {_QUIET:g} s: {advice}", soft_wrap=True)
        if await wait_for_event(stopping, poll):
            return None


def _print_how_to_continue(err: Console, batch_id: str) -> None:
    err.print(
        visible(
            f"The batch {batch_id} is not cancelled: a service or a worker goes on with it.\n"
            f"To follow it again run the same command with --batch {batch_id}, and without --again; to end it:\n"
            f"  python -m app batches cancel {batch_id}"
        ),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _print_summary(out: Console, batch: Batch, results: Sequence[BatchRow], path: Path) -> None:
    reason = f" ({batch.reason})" if batch.reason else ""
    lines = [f"Batch {batch.batch_id}: {batch.status}{reason}"]
    lines += [f"  {count:6} {status}" for status, count in Counter(map(_status, results)).most_common()]
    codes = Counter(result.error_code for result in results if result.error_code)
    if codes:
        lines += ["Errors:", *(f"  {count:6} {code}" for code, count in codes.most_common())]
    lines.append(f"Results: {path}")
    out.print(visible("\n".join(lines)), markup=False, highlight=False, soft_wrap=True)
