"""Deliveries from the engine itself: the same in memory and over PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import NoReturn

import pytest
from pgqueuer.adapters.inmemory import InMemoryQueries
from pgqueuer.adapters.persistence.queries import Queries
from sqlalchemy import text

from app.database import Database
from app.models import utc_now
from app.services.queue.engines import PostgresqlEngine
from app.services.queue.jobs import Handler, JobQueue, QueuedSession
from app.utils.exceptions import DatabaseUnavailableException
from tests.fixtures.logs import logged
from tests.fixtures.waiting import eventually

NewQueue = Callable[..., JobQueue]


@pytest.fixture
def new_queue(database: Database) -> NewQueue:
    """`new_queue(slots=2)`: as another process would have it, which over PostgreSQL shares the jobs."""

    def new(slots: int = 1, *, attended_limit: int = 2, heartbeat_timeout: float = 20.0) -> JobQueue:
        return JobQueue(
            database=database,
            slots=slots,
            attended_limit=attended_limit,
            heartbeat_timeout=heartbeat_timeout,
        )

    return new


@pytest.fixture
async def postgresql(postgresql_url: str) -> AsyncIterator[Database]:
    opened = Database(postgresql_url, pool_size=5)
    yield opened
    await opened.close()


@asynccontextmanager
async def delivering(queue: JobQueue, handle: Handler) -> AsyncIterator[None]:
    running = asyncio.create_task(queue.run(handle))
    try:
        yield
    finally:
        queue.stop()
        async with asyncio.timeout(60):
            await running


def waiting(*ids: tuple[str, int], is_attended: bool = False) -> list[QueuedSession]:
    """Pairs of an id and how urgent it is."""
    return [
        QueuedSession(session_id, 1.7e9 - 600 * urgency, None, is_attended) for session_id, urgency in ids
    ]


class Held:
    """A handler whose sessions go on until they are released."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.ended: list[str] = []
        self._go_on = asyncio.Event()

    async def __call__(self, session_id: str) -> None:
        self.running.append(session_id)
        await self._go_on.wait()
        self.running.remove(session_id)
        self.ended.append(session_id)

    def release(self) -> None:
        self._go_on.set()


def collector() -> tuple[list[str], Handler]:
    handled: list[str] = []

    async def handle(session_id: str) -> None:
        handled.append(session_id)

    return handled, handle


async def test_jobs_of_higher_priority_come_first_and_equals_in_their_order(new_queue: NewQueue):
    queue = new_queue()
    handled, handle = collector()
    await queue.submit_all(waiting(("low", 1), ("middle-1", 5), ("high", 9), ("middle-2", 5)))
    async with delivering(queue, handle):
        await eventually(lambda: len(handled) == 4)
    assert handled == ["high", "middle-1", "middle-2", "low"]


async def test_waiting_job_is_not_doubled(new_queue: NewQueue):
    queue = new_queue()
    handled, handle = collector()
    await queue.submit_all(waiting(("a", 5), ("b", 5)))
    await queue.submit_all(waiting(("a", 5), ("last", 1)))
    async with delivering(queue, handle):
        await eventually(lambda: "last" in handled)
    assert handled == ["a", "b", "last"]


async def test_delivered_job_can_be_submitted_again(new_queue: NewQueue):
    queue = new_queue()
    handled, handle = collector()
    async with delivering(queue, handle):
        await queue.submit_all(waiting(("a", 5)))
        await eventually(lambda: handled == ["a"])
        # the engine forgets a job a moment after its handler has returned
        async with asyncio.timeout(60):
            while handled != ["a", "a"]:
                await queue.submit_all(waiting(("a", 5)))
                await asyncio.sleep(0)


async def test_a_handler_that_asks_for_it_is_called_again(new_queue: NewQueue):
    queue = new_queue()
    handled: list[str] = []

    async def handle(session_id: str) -> float | None:
        handled.append(session_id)
        return 0.01 if len(handled) < 3 else None

    async with delivering(queue, handle):
        await queue.submit_all(waiting(("a", 5)))
        await eventually(lambda: len(handled) == 3)
    assert handled == ["a"] * 3


async def test_queue_runs_no_more_than_the_limit_at_once(new_queue: NewQueue):
    queue, held = new_queue(2), Held()
    await queue.submit_all(waiting(*((str(number), 5) for number in range(5))))
    async with delivering(queue, held):
        await eventually(lambda: len(held.running) == 2)
        await asyncio.sleep(0.6)  # two looks for more
        assert held.running == ["0", "1"]
        held.release()
        await eventually(lambda: len(held.ended) == 5)


async def test_failing_handler_stops_no_other(new_queue: NewQueue):
    queue = new_queue()
    handled: list[str] = []

    async def handle(session_id: str) -> None:
        handled.append(session_id)
        if session_id == "bad":
            raise RuntimeError

    await queue.submit_all(waiting(("bad", 9), ("good", 1)))
    async with delivering(queue, handle):
        await eventually(lambda: "good" in handled)
    assert handled == ["bad", "good"]


async def test_stopped_queue_delivers_nothing_more_and_waits_for_running_handlers(new_queue: NewQueue):
    queue = new_queue()
    started, go_on = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def handle(session_id: str) -> None:
        started.set()
        await go_on.wait()
        ended.append(session_id)

    await queue.submit_all(waiting(("first", 9), ("second", 1)))
    running = asyncio.create_task(queue.run(handle))
    await started.wait()
    queue.stop()
    await asyncio.sleep(0)
    assert not running.done()
    go_on.set()
    async with asyncio.timeout(60):
        await running
    assert ended == ["first"]


async def test_a_stop_before_the_start_is_not_lost(new_queue: NewQueue):
    queue = new_queue()
    handled, handle = collector()
    queue.stop()
    async with asyncio.timeout(60):
        await queue.run(handle)
    assert handled == []


async def test_empty_submit_succeeds(new_queue: NewQueue):
    await new_queue().submit_all([])


async def test_scheduled_job_is_delivered_at_its_time(new_queue: NewQueue):
    queue = new_queue()
    handled, handle = collector()
    async with delivering(queue, handle):
        soon = utc_now() + timedelta(seconds=1.5)
        await queue.submit_all([QueuedSession("later", 1.6e9, soon), *waiting(("now", 1))])
        await eventually(lambda: len(handled) == 2)
    assert handled == ["now", "later"]
    assert utc_now() >= soon - timedelta(milliseconds=50)


async def test_scheduled_job_does_not_suppress_an_immediate_one(new_queue: NewQueue):
    """A session in its back-off, cancelled and tried again."""
    queue = new_queue()
    handled, handle = collector()
    await queue.submit_all([QueuedSession("a", 1.6e9, utc_now() + timedelta(hours=1))])
    await queue.submit_all([QueuedSession("a", 1.6e9, None)])
    async with delivering(queue, handle):
        await eventually(lambda: handled == ["a"])


async def test_sessions_with_a_person_have_a_limit_of_their_own_and_take_a_slot(new_queue: NewQueue):
    queue, held = new_queue(3, attended_limit=1), Held()
    await queue.submit_all(waiting(("person-1", 9), ("person-2", 8), is_attended=True))
    await queue.submit_all(waiting(*((f"alone-{number}", 5) for number in range(3))))
    async with delivering(queue, held):
        await eventually(lambda: len(held.running) == 3)
        await asyncio.sleep(0.6)  # two looks for more
        assert sorted(held.running) == ["alone-0", "alone-1", "person-1"]
        held.release()
        await eventually(lambda: len(held.ended) == 5)
    assert held.ended.index("person-2") > held.ended.index("person-1")


async def test_attended_and_automatic_sessions_share_one_slot(new_queue: NewQueue):
    queue, held = new_queue(1), Held()
    await queue.submit_all(waiting(("person", 9), is_attended=True))
    await queue.submit_all(waiting(("alone", 5)))
    async with delivering(queue, held):
        await eventually(lambda: held.running)
        await asyncio.sleep(0.6)  # two looks for more
        assert held.running == ["person"]
        held.release()
        await eventually(lambda: len(held.ended) == 2)


async def test_paused_queue_takes_nothing_new_for_a_while(new_queue: NewQueue):
    queue = new_queue()
    handled, handle = collector()
    queue.pause(0.5)
    async with delivering(queue, handle):
        await queue.submit_all(waiting(("a", 5)))
        began = asyncio.get_running_loop().time()
        await eventually(lambda: handled)
    assert asyncio.get_running_loop().time() - began > 0.4


# Several processes on one PostgreSQL


def shared(database: Database, *, slots: int = 1, attended_limit: int = 2) -> JobQueue:
    """One more process's queue."""
    return JobQueue(database=database, slots=slots, attended_limit=attended_limit, heartbeat_timeout=20)


async def test_a_queue_that_does_not_run_can_be_filled_for_one_that_does(postgresql: Database):
    handled, handle = collector()
    async with delivering(shared(postgresql), handle):
        async with postgresql.transaction() as db:
            await shared(postgresql).submit(db, waiting(("a", 5)))
        await eventually(lambda: handled == ["a"])


async def test_jobs_of_a_transaction_that_fails_are_not_delivered(postgresql: Database):
    handled, handle = collector()
    async with delivering(shared(postgresql), handle):
        with pytest.raises(LookupError):
            async with postgresql.transaction() as db:
                await shared(postgresql).submit(db, waiting(("undone", 9)))
                raise LookupError
        await shared(postgresql).submit_all(waiting(("a", 5)))
        await eventually(lambda: handled == ["a"])


async def test_one_notification_wakes_all_for_many_jobs(postgresql: Database):
    queue = shared(postgresql)
    async with await postgresql.open_connection("test") as listener:
        await listener.execute("LISTEN ch_pgqueuer")
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(submit_alone(postgresql, queue, str(number)))
        await queue.close()
        notifications = [each async for each in listener.notifies(timeout=0.1)]
    assert 1 <= len(notifications) < 10


async def submit_alone(database: Database, queue: JobQueue, session_id: str) -> None:
    async with database.transaction() as db:
        await queue.submit(db, waiting((session_id, 5)))


async def test_a_full_process_takes_no_job_from_an_idle_one(postgresql: Database):
    full, idle = Held(), Held()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(delivering(shared(postgresql), full))
        await shared(postgresql).submit_all(waiting(("first", 5)))
        await eventually(lambda: full.running)
        await shared(postgresql).submit_all(waiting(("second", 5), ("third", 4)))
        await stack.enter_async_context(delivering(shared(postgresql, slots=2), idle))
        await eventually(lambda: len(idle.running) == 2)
        full.release()
        idle.release()
    assert (full.ended, sorted(idle.ended)) == (["first"], ["second", "third"])


async def test_the_limit_of_sessions_with_a_person_is_one_for_all_processes(postgresql: Database):
    held = Held()
    async with AsyncExitStack() as stack:
        for _ in range(3):
            queue = shared(postgresql, slots=4, attended_limit=2)
            await stack.enter_async_context(delivering(queue, held))
        await queue.submit_all(waiting(*((str(number), 5) for number in range(6)), is_attended=True))
        await eventually(lambda: len(held.running) == 2)
        await asyncio.sleep(0.6)  # two looks for more
        assert len(held.running) == 2
        held.release()
        await eventually(lambda: len(held.ended) == 6)


async def cut(database: Database, which: str = "") -> int:
    """End the connections that deliver, or one of the two; how many there were."""
    last = {"": "TRUE", "listening": "query LIKE 'LISTEN%'", "working": "query NOT LIKE 'LISTEN%'"}[which]
    mine = "datname = current_database() AND application_name = 'job-queue'"
    query = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {mine} AND {last}"
    async with database.transaction() as db:
        return await db.scalar(text(query)) or 0


@pytest.mark.parametrize(("which", "count"), [("", 2), ("listening", 1), ("working", 1)])
async def test_queue_keeps_running_jobs_and_takes_new_ones_after_a_cut(
    postgresql: Database, caplog: pytest.LogCaptureFixture, which: str, count: int
):
    queue, held = shared(postgresql, slots=2), Held()
    async with delivering(queue, held):
        await queue.submit_all(waiting(("before", 5)))
        await eventually(lambda: held.running == ["before"])
        assert await cut(postgresql, which) == count
        await eventually(lambda: logged(caplog, "queue.connected"))
        assert queue.is_connected
        await queue.submit_all(waiting(("after", 5), ("no room", 4)))
        await eventually(lambda: held.running == ["before", "after"])
        await asyncio.sleep(0.6)  # two looks for more
        assert held.running == ["before", "after"], "one that goes on without its job keeps its slot"
        held.release()
        await eventually(lambda: "no room" in held.ended)
    assert len(logged(caplog, "queue.disconnected")) == 1


async def test_stop_in_an_outage_waits_for_running_handlers(postgresql: Database):
    queue, held = shared(postgresql), Held()
    running = asyncio.create_task(queue.run(held))
    await queue.submit_all(waiting(("a", 5)))
    await eventually(lambda: held.running)
    await cut(postgresql)
    await eventually(lambda: queue._detached)
    queue.stop()
    await asyncio.sleep(0)
    assert not running.done()
    held.release()
    async with asyncio.timeout(60):
        await running
    assert held.ended == ["a"]


async def test_failing_submit_or_wake_up_is_logged_and_nothing_more(
    new_queue: NewQueue, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_arguments: object, **_options: object) -> NoReturn:
        raise OSError

    monkeypatch.setattr(InMemoryQueries, "enqueue", fail)
    monkeypatch.setattr(PostgresqlEngine, "wake", fail)
    queue = new_queue()
    async with database.transaction() as db:
        await queue.submit(db, waiting(("a", 5)))
    await queue.close()
    assert logged(caplog, "queue.not_submitted" if database.is_sqlite else "queue.not_woken")


async def test_transaction_that_cannot_submit_for_an_outage_says_so(postgresql: Database):
    async with postgresql.transaction() as db:
        await db.execute(
            text(
                "CREATE FUNCTION fail() RETURNS trigger AS $$ BEGIN RAISE SQLSTATE '53100'; END $$ LANGUAGE plpgsql"
            )
        )
        await db.execute(text("CREATE TRIGGER fail BEFORE INSERT ON pgqueuer EXECUTE FUNCTION fail()"))
    with pytest.raises(DatabaseUnavailableException, match="disk"):
        async with postgresql.transaction() as db:
            await shared(postgresql).submit(db, waiting(("a", 5)))


async def test_the_engine_keeps_no_history(postgresql: Database):
    queue = shared(postgresql)
    handled, handle = collector()
    async with delivering(queue, handle):
        await queue.submit_all(waiting(("a", 5)))
        await eventually(lambda: handled)
    async with postgresql.reading() as db:
        for table in ("pgqueuer", "pgqueuer_log", "pgqueuer_statistics"):
            assert await db.scalar(text(f"SELECT count(*) FROM {table}")) == 0


async def test_a_job_of_a_process_that_has_died_is_delivered_again(postgresql: Database):
    queue = shared(postgresql)
    await queue.submit_all(waiting(("a", 5), ("b", 5)))
    taken = (
        "UPDATE pgqueuer SET status = 'picked', queue_manager_id = gen_random_uuid(), heartbeat = now() - "
    )
    async with postgresql.transaction() as db:
        await db.execute(text(f"{taken} interval '21 s' WHERE payload = 'a'"))
        await db.execute(text(f"{taken} interval '1 s' WHERE payload = 'b'"))
    handled, handle = collector()
    async with delivering(queue, handle):
        await eventually(lambda: handled)
        await asyncio.sleep(0.6)  # two looks for more
    assert handled == ["a"]


async def test_process_without_room_asks_the_engine_for_nothing_and_looks_once_it_has_room(
    database: Database, new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
):
    """Wake-ups that came meanwhile cause one look, not one each."""
    queries = InMemoryQueries if database.is_sqlite else Queries
    looks: list[int] = []
    dequeue = queries.dequeue

    async def counted(self: object, batch_size: int, *args: object, **kwargs: object) -> object:
        looks.append(batch_size)
        return await dequeue(self, batch_size, *args, **kwargs)

    monkeypatch.setattr(queries, "dequeue", counted)
    queue, held = new_queue(slots=2), Held()
    await queue.submit_all(waiting(("first", 2), ("second", 1)))
    async with delivering(queue, held):
        await eventually(lambda: len(held.running) == 2)
        assert looks[-1] == 2, "both were taken at once"
        looks.clear()
        for number in range(20):
            await queue.submit_all(waiting((f"later-{number}", 0)))
            await queue._engine.wake()
        assert not looks
        held.release()
        await eventually(lambda: len(held.ended) == 22)
        # Two jobs at a time, and a few looks that find nothing.
        assert len(looks) <= 22 + 5
