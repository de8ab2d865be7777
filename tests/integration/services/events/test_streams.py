"""The stream of events: none missed, none told twice, whoever writes, reconnects or falls behind."""

import asyncio
import random
import re
import sqlite3
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, text

from app.api.endpoints.events import _blocks
from app.context import open_context
from app.database import Database
from app.models import Event, EventClass, EventType, utc_now
from app.services.events import recorder
from app.services.events import tail as event_tail
from app.services.events.filters import EventFilter
from app.services.events.order import Position
from app.services.events.streams import EventStreams, Gap, Reader, StreamLimits
from app.services.events.tail import BEGINNING, EventTail, check_order
from app.services.operations.event_retention import EventLimits
from app.utils.exceptions import TooManyStreamsException, UnknownEventIdException
from tests.fixtures.events import add_events, numbers, open_reader, read_events, record
from tests.fixtures.logs import logged
from tests.fixtures.retention import event_retention
from tests.fixtures.services import OpenContext
from tests.fixtures.settings import MakeSettings
from tests.fixtures.waiting import eventually

RUNBOOK = Path(__file__).resolve().parents[4] / "docs" / "backup-restore-upgrade.md"


def streams_of(
    database: Database,
    tail: EventTail | None = None,
    *,
    sizes: dict[str, int] | None = None,
    **changes: float,
) -> EventStreams:
    """`sizes`: arguments of `EventStreams`; `changes`: limits."""
    limits = {"readers": 100, "readers_per_key": 100, "lifetime": 60, "heartbeat": 10} | changes
    return EventStreams(
        database=database,
        tail=tail or EventTail(database=database),
        limits=StreamLimits(**limits),
        **sizes or {},
    )


async def after_restore(database: Database, beginning: str) -> None:
    """Run the block of SQL that begins so in the page on restoring a database."""
    section = RUNBOOK.read_text().split("## After a restore")[1].split("\n## ")[0]
    (block,) = (
        each for each in re.findall("```sql\n(.*?)```", section, re.DOTALL) if each.startswith(beginning)
    )
    async with database.transaction() as db:
        for statement in block.removesuffix(";\n").split(";"):
            await db.execute(text(statement.replace(":", "\\:")))


def position(event: Event) -> Position:
    return Position(event.xact_id, event.id)


async def test_event_with_an_early_id_and_a_late_commit_is_not_missed(postgresql_url: str):
    database = Database(postgresql_url)
    streams = streams_of(database)
    async with open_reader(streams) as reader:
        async with database.transaction() as slow:
            recorder.record(slow, EventType.BATCH_COMPLETED, number=1)
            await slow.flush()
            await record(database, 2)  # with a higher id, and committed before
            async with open_reader(streams, last=reader.position) as other:
                # Told of neither: the order is not known yet.
                assert await streams._next(other) == ([], False)
        assert numbers(await read_events(streams, reader, 2)) == [1, 2]
    await database.close()


@pytest.mark.parametrize("keep", [3, pytest.param(2_000, marks=pytest.mark.long)])
async def test_readers_get_each_event_once(database: Database, keep: int):
    """Many write at once; one reader stays, one comes again and again, one looks for a few among the many."""
    tail = EventTail(database=database, keep=keep, page_size=5)
    streams = streams_of(database, tail, sizes={"batch_size": 7, "scan_limit": 11})
    dice, count = random.Random(1), 150

    async def writer(first: int) -> None:
        for number in range(first, count, 3):
            async with database.transaction() as db:
                recorder.record(db, EventType.BATCH_COMPLETED, number=number, actor=f"a{number % 10}")
                await db.flush()
                await asyncio.sleep(dice.random() / 200)

    async def staying() -> list[Event]:
        async with open_reader(streams, last=BEGINNING) as reader:
            return await read_events(streams, reader, count)

    async def coming_again() -> list[Event]:
        found: list[Event] = []
        while len(found) < count:
            last = position(found[-1]) if found else BEGINNING
            async with open_reader(streams, last=last) as reader:
                async for batch in streams.tell(reader):
                    found.extend(each.event for each in batch[: dice.randint(1, 7)])
                    if dice.random() < 0.3 or len(found) == count:
                        break
                    if found[-1] is not batch[-1].event:
                        break
        return found

    async def choosy() -> list[Event]:
        async with open_reader(streams, last=BEGINNING, filters=EventFilter(actor="a3")) as reader:
            return await read_events(streams, reader, count // 10)

    async with asyncio.timeout(60):
        *_, stayed, came, chosen = await asyncio.gather(
            *(writer(first) for first in range(3)), staying(), coming_again(), choosy()
        )
    assert sorted(numbers(stayed)) == list(range(count))
    assert numbers(came) == numbers(stayed)
    assert numbers(chosen) == [number for number in numbers(stayed) if number % 10 == 3]


async def test_an_event_of_this_process_wakes_its_readers(database: Database):
    tail = EventTail(database=database, poll_interval=1_000.0)
    streams = streams_of(database, tail, heartbeat=1_000, lifetime=1_000)
    async with open_reader(streams) as reader:
        found = asyncio.create_task(anext(streams.tell(reader)))
        await eventually(lambda: tail.after(reader.position, 1) is not None)
        await record(database, 7)
        while not (await asyncio.wait([found], timeout=0.5))[0]:
            await record(database, 8)  # an older transaction of another test held back the first one
        assert (await found)[0].event.data == {"number": 7}


async def test_event_of_another_process_is_delivered(open_services: OpenContext):
    async with (
        open_services() as here,
        open_services() as elsewhere,
        open_reader(here.events.streams) as reader,
    ):
        await record(elsewhere.database, 7)
        assert numbers(await read_events(here.events.streams, reader, 1)) == [7]


@pytest.mark.databases("sqlite")
async def test_a_heartbeat_moves_the_reader_past_what_it_does_not_want(database: Database):
    streams = streams_of(database, heartbeat=0.05)
    async with open_reader(streams, filters=EventFilter(account_id="mine")) as reader:
        began = reader.position
        await record(database, 1, account_id="other")
        async with asyncio.timeout(60):
            async for batch in streams.tell(reader):
                assert batch == []
                if reader.position > began:
                    break


async def test_events_of_all_classes_and_times_are_told_in_one_order(database: Database):
    """On PostgreSQL they are in many partitions."""
    types = [EventType.TOKEN_READ, EventType.CREDENTIAL_REFRESHED, EventType.AUTHORIZATION_COMPLETED]
    times = [utc_now() + timedelta(days=days) for days in (0, -3, 1, -400, 40, 400)]
    streams = streams_of(database)
    async with open_reader(streams, last=BEGINNING) as reader:
        for number in range(36):
            at = times[number // 3 % len(times)]
            await record(database, number, event_type=types[number % 3], occurred_at=at)
        assert numbers(await read_events(streams, reader, 36)) == list(range(36))
    async with open_reader(streams, last=BEGINNING) as reader:
        assert numbers(await read_events(streams, reader, 36)) == list(range(36))


async def test_reader_that_was_away_for_too_long_gets_a_gap(database: Database):
    streams = streams_of(database)
    await add_events(database, *({} for _ in range(10)))
    async with open_reader(streams, last=BEGINNING) as reader:
        events = await read_events(streams, reader, 10)
        assert reader.gap is None
    assert await event_retention(database, count=4).delete_old() == 6
    own = EventFilter(event_type="batch.completed")  # not the event that tells of the deletion
    for last, rest in ((events[5], 4), (events[6], 3)):
        async with open_reader(streams, last=position(last), filters=own) as reader:
            assert reader.gap == (Gap(events[6].occurred_at) if rest == 4 else None)
            assert [event.id for event in await read_events(streams, reader, rest)] == [
                event.id for event in events[-rest:]
            ]


@pytest.mark.parametrize("by", ["age", "count"])
async def test_reader_gets_a_gap_for_deleted_events_of_a_class_that_it_may_want(database: Database, by: str):
    """Older events of other classes stay, among them the last one that it was told."""
    streams = streams_of(database)
    types = ["api_key.created", "credential.refreshed", "api_key.revoked", "api_key.created"]
    at = utc_now() - timedelta(days=8)
    await add_events(database, *({"event_type": each, "occurred_at": at} for each in types))
    async with open_reader(streams, last=BEGINNING) as reader:
        events = await read_events(streams, reader, 4)
    limits = {"age": EventLimits(days=7, count=100), "count": EventLimits(days=30, count=0)}
    retention = event_retention(database, limits={EventClass.ROUTINE: limits[by]})
    assert await retention.delete_old() == 1
    for last, wanted, oldest_kept in (
        (events[0], None, events[2]),
        (events[0], "credential.*", events[2]),
        (events[0], "credential.refreshed", events[2]),
        (events[0], "api_key.*", None),
        (events[0], "api_key.created", None),
        (events[2], None, None),
    ):
        filters = EventFilter(event_type=wanted)
        async with open_reader(streams, last=position(last), filters=filters) as reader:
            assert reader.gap == (Gap(oldest_kept.occurred_at) if oldest_kept else None)


async def test_reader_overtaken_by_the_retention_while_it_catches_up_gets_a_gap(database: Database):
    streams = streams_of(database, EventTail(database=database, keep=1), sizes={"scan_limit": 2})
    await add_events(database, *({} for _ in range(10)))
    async with open_reader(streams, last=BEGINNING) as reader:
        blocks = _blocks(streams, reader)
        assert b"gap" not in b"".join([await anext(blocks) for _ in range(3)])
        async with database.transaction() as db:  # as the retention does
            await db.execute(delete(Event).where(Event.id < 7))
        notice, *told_after = [await anext(blocks) for _ in range(3)]
        await blocks.aclose()
        assert b"event: gap" in notice
        assert [re.findall(rb'"id":(\d+)', block) for block in told_after] == [[b"7", b"8"], [b"9", b"10"]]


async def test_a_restore_to_an_earlier_time_hides_no_new_event(sqlite_url: str, tmp_path: Path):
    database, backup = Database(sqlite_url), tmp_path / "backup.db"
    await add_events(database, *({"data": {"number": number}} for number in range(3)))
    with closing(sqlite3.connect(sqlite_url.partition("///")[2])) as connection:
        connection.execute(f"VACUUM INTO '{backup}'")
    await record(database, 3)
    await record(database, 4)
    streams = streams_of(database)
    async with open_reader(streams, last=BEGINNING) as reader:
        lost = (await read_events(streams, reader, 5))[3:]
    await database.close()
    database = Database(f"sqlite+aiosqlite:///{backup}")
    await after_restore(database, "-- SQLite")
    for number in (5, 6, 7):
        await record(database, number)
    streams = streams_of(database)
    async with open_reader(streams, last=position(lost[-1])) as reader:
        assert reader.gap is not None
        marker, *new = await read_events(streams, reader, 4)
    assert (marker.event_type, marker.data, numbers(new)) == ("database.restored", {}, [5, 6, 7])
    await database.close()


async def test_ids_go_on_far_ahead_after_a_restore_of_postgresql(postgresql_url: str):
    database = Database(postgresql_url)
    for _ in range(2):  # the first time there are no events
        await after_restore(database, "-- PostgreSQL")
        await record(database, 1)
    async with database.reading() as db:
        ids = (await db.scalars(select(Event.id).order_by(Event.id))).all()
    assert ids == [1_000_000_001, 2_000_000_002]
    await database.close()


async def test_an_id_that_was_never_given_is_refused(database: Database):
    streams = streams_of(database)
    await record(database, 1)
    # Until this one ends, no transaction of another test moves the position on PostgreSQL.
    async with database.transaction() as slow:
        recorder.record(slow, EventType.BATCH_COMPLETED, number=1)
        await slow.flush()
        async with open_reader(streams) as reader:
            latest = reader.position
        for unknown in (latest._replace(event_id=latest.event_id + 1), Position(2**62, 1)):
            with pytest.raises(UnknownEventIdException):
                async with open_reader(streams, last=unknown):
                    pass
    assert streams.readers == []


@pytest.mark.databases("sqlite")
async def test_streams_are_limited_by_process_and_key(database: Database):
    streams = streams_of(database, readers=3, readers_per_key=2)
    async with open_reader(streams, key="a"), open_reader(streams, key="b"):
        async with open_reader(streams, key="a"):
            with pytest.raises(TooManyStreamsException, match="The service"):
                await open_reader(streams, key="c").__aenter__()
        async with open_reader(streams, key="b"):
            with pytest.raises(TooManyStreamsException, match="This API key"):
                await open_reader(streams, key="b").__aenter__()
    assert (streams.readers, streams.totals.refused, streams.totals.opened) == ([], 2, 4)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("reason", ["lifetime", "shutdown", "access"])
async def test_a_stream_ends(database: Database, reason: str):
    limits = {"lifetime": {"lifetime": 0.05}, "access": {"heartbeat": 0.05}}
    streams = streams_of(database, **limits.get(reason, {}))

    async def may_read() -> bool:
        return False

    reader = Reader(key_name="own", filters=EventFilter(), may_read=may_read)
    async with streams.open(reader, last=None), asyncio.timeout(60):
        if reason == "shutdown":
            asyncio.get_running_loop().call_later(0.02, streams.close)
        assert not any([batch async for batch in streams.tell(reader)])
    assert reader.ended == reason


@pytest.mark.databases("sqlite")
async def test_tail_without_followers_reads_nothing(database: Database):
    tail = EventTail(database=database)
    async with open_reader(streams_of(database, tail)) as reader:
        await eventually(lambda: tail.after(reader.position, 1) is not None)
        await record(database, 1)
        await eventually(lambda: tail.kept == 1)
    assert (tail.kept, tail._task) == (0, None)


@pytest.mark.parametrize("ticks", range(6))
async def test_reader_that_leaves_just_after_an_event_leaves_no_tail_behind(sqlite_url: str, ticks: int):
    """A tail left behind would go on beside the next one, and each event be told twice."""
    database = Database(sqlite_url)
    tail = EventTail(database=database)
    with tail.follow():
        await eventually(lambda: tail._kept_after is not None and tail._due._waiters)
        task = tail._task
        tail._due.set()
        for _ in range(ticks):
            await asyncio.sleep(0)
    assert task is not None
    await eventually(task.done)
    await database.close()


@pytest.mark.databases("sqlite")
async def test_stopped_tail_takes_no_events(database: Database, monkeypatch: pytest.MonkeyPatch):
    """The pool of connections may lose a cancellation."""
    is_reading, page_after = asyncio.Event(), event_tail.page_after

    async def losing(*args: Any, **options: Any) -> Any:
        if not is_reading.is_set():
            is_reading.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return await page_after(*args, **options)

    monkeypatch.setattr(event_tail, "page_after", losing)
    await record(database, 1)
    tail = EventTail(database=database)
    with tail.follow():
        await is_reading.wait()
        task = tail._task
    assert task is not None
    await eventually(task.done)
    assert (tail.kept, tail._kept_after) == (0, None)


async def test_restored_dump_is_noticed_at_the_start_and_repaired_by_hand(
    postgresql_url: str, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
):
    database = Database(postgresql_url)
    await add_events(database, {"xact_id": 2**40, "data": {"number": 1}})
    async with open_context(make_settings(database_url=postgresql_url)) as context:
        assert len(logged(caplog, "events.order_broken")) == 1
        await after_restore(database, "UPDATE")
        await record(database, 2)
        async with open_reader(context.events.streams, last=BEGINNING) as reader:
            assert numbers(await read_events(context.events.streams, reader, 2)) == [1, 2]
    caplog.clear()
    await check_order(database)
    await database.close()
    assert not logged(caplog, "events.order_broken")
