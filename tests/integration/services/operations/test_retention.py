"""Old history goes, in batches; what is not old or not ended stays."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from app.database import Database
from app.models import (
    AuthenticationRequest,
    AuthorizationAttempt,
    AuthorizationSession,
    Batch,
    BatchRow,
    DashboardSession,
    DashboardTicket,
    Event,
    Evidence,
    IdempotencyKey,
    SessionStatus,
    utc_now,
)
from tests.fixtures.factories import new_profile, new_session
from tests.fixtures.retention import new_retention

pytestmark = pytest.mark.databases("sqlite", long="postgresql")


async def test_only_old_ended_sessions_are_deleted(database: Database):
    old, new = utc_now() - timedelta(days=31), utc_now() - timedelta(days=29)
    async with database.transaction() as db:
        profile = new_profile()
        db.add(profile)
        ended = {"status": SessionStatus.COMPLETED}
        db.add_all([new_session(profile, completed_at=old, **ended) for _ in range(7)])
        db.add(new_session(profile, completed_at=new, **ended))
        db.add(new_session(profile, created_at=old))
        db.add_all([Event(event_type="x", actor="a", occurred_at=at) for at in (old, old, new)])
        for batch_id, ended_at in (("old", old), ("new", new), ("open", None)):
            limits = {"max_running": 1, "stop_percent": 50, "stop_window": 20}
            db.add(Batch(batch_id=batch_id, requested_by="a", completed_at=ended_at, **limits))
            db.add(BatchRow(batch_id=batch_id, number=1, account_id="a", api_app="AIOTT1"))
    deleted = await new_retention(database, batch_size=3).delete_old()
    assert (deleted["sessions_deleted"], deleted["syncs_deleted"], deleted["events_deleted"]) == (7, 0, 2)
    assert deleted["batches_deleted"] == 1
    async with database.reading() as db:
        assert await db.scalar(select(func.count()).select_from(AuthorizationSession)) == 2
        assert await db.scalar(select(func.count()).select_from(Event)) == 1
        for column in (Batch.batch_id, BatchRow.batch_id):
            assert set(await db.scalars(select(column))) == {"new", "open"}


def evidence(session_id: str, *, attempt: int = 1, days: float = 0, size: int = 100) -> Evidence:
    taken_at = utc_now() - timedelta(days=days)
    texts = {"url": "http://h/", "title": "", "test_ids": [], "console": []}
    return Evidence(session_id=session_id, attempt=attempt, taken_at=taken_at, size_bytes=size, **texts)


async def left(database: Database, model: type) -> set[str]:
    """Session ids of the rows that are still there."""
    async with database.reading() as db:
        return set(await db.scalars(select(model.session_id)))


async def test_rows_of_a_session_are_deleted_with_it(database: Database):
    old = utc_now() - timedelta(days=31)
    async with database.transaction() as db:
        profile = new_profile()
        db.add(profile)
        gone = [new_session(profile, status=SessionStatus.FAILED, completed_at=old) for _ in range(3)]
        kept = new_session(profile, status=SessionStatus.FAILED, completed_at=utc_now())
        db.add_all([*gone, kept])
        for row in (*gone, kept):
            db.add(AuthorizationAttempt(session_id=row.session_id, number=1))
            db.add(evidence(row.session_id))
    deleted = await new_retention(database, batch_size=2).delete_old()
    assert deleted["sessions_deleted"] == 3
    for model in (AuthorizationSession, AuthorizationAttempt, Evidence):
        assert await left(database, model) == {kept.session_id}, model


async def test_idempotency_keys_go_when_their_time_is_over(database: Database):
    hours = {"over": -1, "valid": 1}
    async with database.transaction() as db:
        for name, number in hours.items():
            expires_at = utc_now() + timedelta(hours=number)
            hashes = {"key_hash": name, "body_hash": "x"}
            db.add(IdempotencyKey(caller="a", session_id=name, expires_at=expires_at, **hashes))
    deleted = await new_retention(database).delete_old()
    assert deleted["keys_deleted"] == 1
    assert await left(database, IdempotencyKey) == {"valid"}


async def test_sign_ins_and_links_of_the_page_go_when_their_time_is_over(database: Database):
    async with database.transaction() as db:
        for name, hours in {"over": -1, "valid": 1}.items():
            expires_at = utc_now() + timedelta(hours=hours)
            db.add(DashboardSession(id_hash=name, expires_at=expires_at))
            db.add(DashboardTicket(ticket_hash=name, expires_at=expires_at))
            db.add(AuthenticationRequest(state_hash=name, next_page="/ui", expires_at=expires_at))
    deleted = await new_retention(database).delete_old()
    names = ("sign_ins_deleted", "tickets_deleted", "sign_in_requests_deleted")
    assert [deleted[name] for name in names] == [1, 1, 1]
    async with database.reading() as db:
        assert (await db.scalars(select(DashboardSession.id_hash))).all() == ["valid"]
        assert (await db.scalars(select(DashboardTicket.ticket_hash))).all() == ["valid"]
        assert (await db.scalars(select(AuthenticationRequest.state_hash))).all() == ["valid"]


@pytest.mark.databases("sqlite", "postgresql")
async def test_row_that_is_renewed_while_the_deletion_waits_stays(database: Database):
    async with database.transaction() as db:
        db.add(IdempotencyKey(caller="a", key_hash="k", body_hash="b", session_id="s", expires_at=utc_now()))
    keep = new_retention(database)
    async with database.transaction() as db:
        await db.execute(update(IdempotencyKey).values(expires_at=utc_now() + timedelta(days=1)))
        deleting = asyncio.create_task(keep.delete_old())
        await delete_waits(database, deleting)
    assert (await deleting)["keys_deleted"] == 0


async def delete_waits(database: Database, deleting: asyncio.Task[Any]) -> None:
    """On PostgreSQL for the row, which it has found. On SQLite it has not begun to look."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM idem%'"
    )
    async with asyncio.timeout(60):
        while not database.is_sqlite:
            async with database.reading() as db:
                if await db.scalar(waiting):
                    return
            assert not deleting.done()
            await asyncio.sleep(0.01)


async def test_old_evidence_goes_and_then_the_oldest_that_is_too_much(database: Database):
    async with database.transaction() as db:
        db.add_all([evidence(f"old-{days}", days=days) for days in (15, 16, 17)])
        db.add_all([evidence(f"new-{days}", days=days, size=100) for days in range(9)])
    deleted = await new_retention(database, max_evidence_bytes=450, batch_size=2).delete_old()
    assert deleted["evidence_deleted"] == 3 + 5
    assert await left(database, Evidence) == {f"new-{days}" for days in range(4)}
