"""`python -m app authorize accounts.csv`: a batch made, or found again, followed to its end, and reported."""

import asyncio
import csv
import hashlib
import json
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Final, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from app.cli.batch_desk import BatchDesk
from app.client import Batch, BatchRow
from app.client.options import BatchOptions
from app.services.batches.service import PlacedBatch
from app.utils.foreign_text import neutralised, visible
from app.utils.tasks import wait_for_event

COLUMNS: Final = ("row", "account_id", "api_app", "session_id", "existing", "status", "error_code", "error")

_FIRST_OPTIONS: Final = ("api_app", "max_running", "stop_percent")
_POLL: Final = 0.5
_QUIET: Final = 20.0
"""Seconds without a start until the user is told that nobody works."""


@dataclass(frozen=True)
class AuthorizeOptions:
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


async def authorize_file(desk: BatchDesk, options: AuthorizeOptions, *, out: Console, err: Console) -> bool:
    """Authorize a file; return whether every row was authorised. A signal ends the following, not the batch.

    Raises `InvalidRequestException`, `BatchEmptyException` and what else a batch is refused for, or `ServiceError`.
    """
    content = options.file.read_bytes()
    with _signalled() as stopping:
        placed = await _place(desk, content, options)
        with _progress(err) as progress:
            progress.console.print(
                visible(_of_batch(placed, options)), markup=False, highlight=False, soft_wrap=True
            )
            async with desk.working(is_wanted=options.work, quietly=err.is_terminal):
                batch = await _follow(desk, placed.batch_id, stopping, progress, options)
        if batch is None:
            _tell_how_to_go_on(err, placed.batch_id)
            return False
        results = [row async for row in desk.batch_results(placed.batch_id)]
    write_results(options.results, results)
    _print_summary(out, batch, results, options.results)
    return all(result.status == "completed" for result in results)


def write_results(path: Path, results: Sequence[BatchRow]) -> None:
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


def _line(result: BatchRow) -> list[str]:
    values = asdict(result) | {"status": _status(result)}
    values["existing"] = "yes" if result.existing else ""
    return ["" if values[name] is None else neutralised(str(values[name])) for name in COLUMNS]


def _status(result: BatchRow) -> str:
    if result.session_id is None:
        return "rejected"
    return result.status or "forgotten"


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


async def _place(desk: BatchDesk, content: bytes, options: AuthorizeOptions) -> PlacedBatch:
    """The same file with the same options is the same batch."""
    if options.batch_id is not None:
        return PlacedBatch(options.batch_id, is_new=False)
    given = {
        "api_app": options.api_app,
        "max_running": options.max_running,
        "stop_percent": options.stop_percent,
    }
    source = source_of(content, given)
    named = cast(BatchOptions, {name: value for name, value in given.items() if value is not None})
    return await desk.place(content, source=source, again=options.again, **named)


def source_of(content: bytes, given: Mapping[str, object]) -> str:
    """Return the key of the batch that a file makes with these options; one that is None is not given.

    Batches are found by it for ever. So the first three options stand as the first release wrote them, and a later
    one joins only where it is given.
    """
    first = tuple(given.get(name) for name in _FIRST_OPTIONS)
    later = {name: value for name, value in given.items() if value is not None and name not in _FIRST_OPTIONS}
    more = json.dumps(later, sort_keys=True) if later else ""
    return hashlib.sha256(content + f"{first!r}{more}".encode()).hexdigest()


def _of_batch(placed: PlacedBatch, options: AuthorizeOptions) -> str:
    if placed.is_new or options.batch_id is not None:
        return f"Batch {placed.batch_id} of {options.file}"
    return f"Batch {placed.batch_id}: {options.file} made it earlier; --again makes a new one"


def _progress(err: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    return Progress(*columns, console=err, transient=True)


async def _follow(
    desk: BatchDesk, batch_id: str, stopping: asyncio.Event, progress: Progress, options: AuthorizeOptions
) -> Batch | None:
    """The batch when it has ended; None when the user does not want to wait."""
    task = progress.add_task("waiting")
    ended, quiet_since, is_told = -1, monotonic(), options.work
    while True:
        batch = await desk.batch(batch_id)
        done = batch.accepted - batch.open
        progress.update(task, total=batch.accepted, completed=done, description=_state(batch))
        if batch.is_ended:
            return batch
        if batch.counts.get("in_progress") or done != ended:
            ended, quiet_since = done, monotonic()
        elif not is_told and monotonic() - quiet_since > _QUIET:
            is_told = True
            progress.console.print(f"Nothing has started for {_QUIET:g} s: {desk.advice}", soft_wrap=True)
        if await wait_for_event(stopping, max(_POLL, desk.poll)):
            return None


def _state(batch: Batch) -> str:
    parts = [f"{count} {status}" for status, count in batch.counts.items() if count and status != "pending"]
    if batch.eta_seconds is not None:
        parts.append(f"about {batch.eta_seconds:.0f} s left")
    return visible(", ".join(parts)) or "waiting"


def _tell_how_to_go_on(err: Console, batch_id: str) -> None:
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
