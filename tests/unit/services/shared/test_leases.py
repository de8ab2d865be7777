"""A lease is kept by its heartbeat, and its loss interrupts the work."""

import asyncio

import pytest

from app.services.shared.leases import keep_alive
from app.utils.exceptions import LeaseLostException

SECONDS = 1.0
"""Much longer than a busy machine keeps a process waiting."""


class Row:
    """Answers renewals from `answers`, then with True; `renewals(n)` waits for the n-th."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.count = 0
        self.changed = asyncio.Condition()

    async def renew(self) -> bool:
        async with self.changed:
            self.count += 1
            self.changed.notify_all()
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def renewals(self, number: int) -> None:
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(lambda: self.count >= number)


async def forever() -> None:
    async with asyncio.timeout(60):
        await asyncio.Event().wait()


async def test_lease_is_renewed_while_the_work_goes_on():
    row = Row()
    async with keep_alive(row.renew, seconds=SECONDS):
        await row.renewals(2)
    count = row.count
    await asyncio.sleep(0)
    assert row.count == count


async def test_a_lost_lease_interrupts_the_work():
    row = Row(True, False)
    interrupted = False
    with pytest.raises(LeaseLostException):
        async with keep_alive(row.renew, seconds=SECONDS):
            try:
                await forever()
            except asyncio.CancelledError:
                interrupted = True
                raise
    assert interrupted
    assert row.count == 2


async def test_single_failed_renewal_is_no_loss():
    row = Row(OSError(), True)
    async with keep_alive(row.renew, seconds=SECONDS):
        await row.renewals(2)


async def test_a_database_that_fails_for_a_whole_lease_is_a_loss():
    row = Row(*(OSError() for _ in range(1000)))
    with pytest.raises(LeaseLostException):
        async with keep_alive(row.renew, seconds=SECONDS):
            await forever()
    assert row.count > 1


async def test_a_database_that_hangs_for_a_whole_lease_is_a_loss():
    async def renew() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(LeaseLostException):
        async with keep_alive(renew, seconds=SECONDS):
            await forever()


async def test_the_works_own_error_is_passed_on():
    with pytest.raises(KeyError):
        async with keep_alive(Row().renew, seconds=SECONDS):
            raise KeyError


async def test_the_works_own_timeout_is_not_taken_for_a_loss():
    with pytest.raises(TimeoutError):
        async with keep_alive(Row().renew, seconds=SECONDS):
            raise TimeoutError


async def test_a_cancellation_stays_a_cancellation():
    entered = asyncio.Event()

    async def work() -> None:
        async with keep_alive(Row().renew, seconds=SECONDS):
            entered.set()
            await forever()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
