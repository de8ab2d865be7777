"""Thresholds that were crossed: told once when they are, and once when they are no more, by whichever process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select, update

from app.database import Database, affected_rows, insert_or_update
from app.models import Alarm, EventType, utc_now
from app.services.events import recorder
from app.services.shared.isolation import run_steps
from app.utils.logger import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Reading:
    """The monitor's reading for one alarm."""

    is_active: bool
    detail: str
    """A sentence with the value and the threshold."""


class AlarmService:
    """The state of every alarm is a row, so that a restart or a second process does not tell it again."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def update(self, readings: Mapping[str, Reading]) -> None:
        """A change of state is one event and one log line; a state that stays is neither."""
        async with self._database.reading() as db:
            rows = await db.execute(select(Alarm.name, Alarm.is_active))
            open_alarms = dict(rows.all())
        changed = {
            name: partial(self._change, name, reading)
            for name, reading in readings.items()
            if open_alarms.get(name, False) != reading.is_active
        }
        (await run_steps(changed)).raise_failure()

    async def active(self) -> Sequence[Alarm]:
        async with self._database.reading() as db:
            return (await db.scalars(select(Alarm).where(Alarm.is_active).order_by(Alarm.name))).all()

    async def _change(self, name: str, reading: Reading) -> None:
        async with self._database.transaction() as db:
            row = insert_or_update(db, Alarm).values(
                name=name, is_active=False, changed_at=utc_now(), detail=reading.detail
            )
            await db.execute(row.on_conflict_do_nothing())
            result = await db.execute(
                update(Alarm)
                .where(Alarm.name == name, Alarm.is_active != reading.is_active)
                .values(is_active=reading.is_active, changed_at=utc_now(), detail=reading.detail)
            )
            if not affected_rows(result):
                return  # another process was first
            event_type = EventType.ALARM_RAISED if reading.is_active else EventType.ALARM_CLEARED
            recorder.record(db, event_type, alarm=name, detail=reading.detail)
        if reading.is_active:
            log.error("alarm.raised", alarm=name, detail=reading.detail)
        else:
            log.warning("alarm.cleared", alarm=name, detail=reading.detail)
