"""Old history goes, in batches; what is not old or not ended stays."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.database import Database
from app.models import AuthorizationSession, Batch, BatchRow, Event, SessionStatus, utc_now
from app.services import retention
from app.services.retention import Retention, RetentionDays
from tests.fixtures.factories import new_profile, new_session


async def test_only_what_is_old_and_ended_goes(database: Database, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retention, "_BATCH", 3)
    old, new = utc_now() - timedelta(days=31), utc_now() - timedelta(days=29)
    async with database.transaction() as session:
        profile = new_profile()
        session.add(profile)
        ended = {"status": SessionStatus.COMPLETED}
        session.add_all([new_session(profile, completed_at=old, **ended) for _ in range(7)])
        session.add(new_session(profile, completed_at=new, **ended))
        session.add(new_session(profile, created_at=old))
        session.add_all([Event(event_type="x", actor="a", occurred_at=at) for at in (old, old, new)])
        for batch_id, ended_at in (("old", old), ("new", new), ("open", None)):
            limits = {"max_running": 1, "stop_percent": 50, "stop_window": 20}
            session.add(Batch(batch_id=batch_id, requested_by="a", completed_at=ended_at, **limits))
            session.add(BatchRow(batch_id=batch_id, number=1, account_id="a", api_app="AIOTT1"))
    deleted = await Retention(database=database, days=RetentionDays(sessions=30, events=30)).delete_old()
    assert deleted == {"sessions_deleted": 7, "batches_deleted": 1, "syncs_deleted": 0, "events_deleted": 2}
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(AuthorizationSession)) == 2
        assert await session.scalar(select(func.count()).select_from(Event)) == 1
        for column in (Batch.batch_id, BatchRow.batch_id):
            assert set(await session.scalars(select(column))) == {"new", "open"}
