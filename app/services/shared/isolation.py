"""Isolation of failures in maintenance: a bad row or a failing step never stops the work on the others."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import ColumnElement
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.models import AuthorizationSession
from app.utils.exceptions import DatabaseUnavailableException
from app.utils.logger import get_logger
from app.utils.outages import unavailable_reason

T = TypeVar("T")

_MAX_FAILED: Final = 1000
_LEFT_OUT_FOR: Final = 900.0
"""Seconds until a row that failed is claimed again."""

log = get_logger(__name__)


@dataclass(frozen=True)
class Outcome(Generic[T]):
    count: int
    """Sum of the counts that the work returned."""
    failed: list[T]
    """Rows that fail alone."""


async def for_each(rows: Iterable[T], work: Callable[[T], Awaitable[int]], *, step: str) -> Outcome[T]:
    """Call `work` with each row; a row that fails is logged and left out.

    Args:
        rows: what identifies the rows, as their ids.
        work: returns a count.
        step: name of the work in the log.

    Raises `DatabaseUnavailableException` at once: no row is to blame.
    """
    count, failed = 0, list[T]()
    for row in rows:
        try:
            count += await work(row)
        except DatabaseUnavailableException:
            raise
        except Exception as error:
            if isinstance(error, SQLAlchemyError) and unavailable_reason(error) is not None:
                raise  # inside a caller's transaction, which gives it its name
            log.error("maintenance.row_failed", step=step, row=str(row), exc_info=error)
            failed.append(row)
    return Outcome(count, failed)


async def isolate_rows(
    rows: Sequence[T], work: Callable[[Sequence[T]], Awaitable[int]], *, step: str
) -> Outcome[T]:
    """Call `work` with all `rows` at once; when that fails, with each half, and so on down to the rows that fail alone.

    `work` is one transaction, which reads the rows, too; else as `for_each`.
    """
    if len(rows) > 1:
        try:
            return Outcome(await work(rows), [])
        except DatabaseUnavailableException:
            raise
        except Exception:
            middle = len(rows) // 2
            first = await isolate_rows(rows[:middle], work, step=step)
            second = await isolate_rows(rows[middle:], work, step=step)
            return Outcome(first.count + second.count, first.failed + second.failed)
    return await for_each(rows, lambda row: work([row]), step=step)


async def change_sessions(
    db: AsyncSession,
    rows: Iterable[AuthorizationSession],
    change: Callable[[AuthorizationSession], Awaitable[None]],
    *,
    step: str,
) -> list[AuthorizationSession]:
    """Change each session in a savepoint of its own; return those whose change holds, log the others.

    For sessions that must change together with another one in the caller's transaction.
    """
    by_id = {row.id: row for row in rows}

    async def change_one(row_id: int) -> int:
        async with db.begin_nested():
            await change(by_id[row_id])
        return 1

    failed = (await for_each(by_id, change_one, step=step)).failed
    return [row for row_id, row in by_id.items() if row_id not in failed]


class UsableRows:
    """Claims of rows of which one may fail the transaction: it is left out for a while, so that it keeps no place."""

    def __init__(self, row_id: InstrumentedAttribute[int], *, step: str) -> None:
        self._row_id = row_id
        self._step = step
        self._failed: dict[int, float] = {}
        """Time (`monotonic`) until which a row is left out, by id."""

    async def claim(
        self,
        claim: Callable[[ColumnElement[bool]], Awaitable[list[T] | None]],
        find: Callable[[ColumnElement[bool]], Awaitable[Sequence[int]]],
    ) -> list[T] | None:
        """Return what `claim` returns for the rows that its condition names, in one transaction.

        When that fails, `claim` is called for each row that `find` returns; None when none of them could be claimed.
        Raises `DatabaseUnavailableException`, and the error of the whole when several rows fail and no other one
        succeeds: then it is not the rows' own.
        """
        now = monotonic()
        self._failed = {row_id: ends_at for row_id, ends_at in self._failed.items() if ends_at > now}
        usable = self._row_id.not_in(list(self._failed))
        try:
            return await claim(usable)
        except DatabaseUnavailableException:
            raise
        except Exception as error:
            log.warning("maintenance.claimed_one_by_one", step=self._step, error=type(error).__name__)
            failure = error
        claimed: list[T] = []

        async def claim_one(row_id: int) -> int:
            claimed.extend(await claim(self._row_id == row_id) or ())
            return 1

        outcome = await for_each(await find(usable), claim_one, step=self._step)
        if not outcome.count and len(outcome.failed) != 1:
            raise failure
        self._failed |= dict.fromkeys(outcome.failed[:_MAX_FAILED], monotonic() + _LEFT_OUT_FOR)
        return claimed or None


@dataclass(frozen=True)
class StepResults:
    values: dict[str, Any]
    """Results by step; failed steps are missing."""
    error: Exception | None
    """The first failure."""

    def raise_failure(self) -> None:
        if self.error is not None:
            raise self.error


async def run_steps(steps: Mapping[str, Callable[[], Awaitable[Any]]]) -> StepResults:
    """Run every step; a failing one is logged and the next ones run all the same.

    Raises `DatabaseUnavailableException` at once: the others would fail, too.
    """
    values: dict[str, Any] = {}
    first_error: Exception | None = None
    for name, step in steps.items():
        try:
            values[name] = await step()
        except DatabaseUnavailableException:
            raise
        except Exception as error:
            log.error("maintenance.step_failed", step=name, exc_info=error)
            first_error = first_error or error
    return StepResults(values, first_error)
