"""Control of a session's browser: one person at a time, under a lease in the database."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, delete

from app.database import Database, insert_or_update
from app.models import EventType, LiveControl
from app.services.events import recorder
from app.services.live.directory import LiveSession
from app.services.shared.leases import has_no_lease, lease_columns, new_lease_token, renew_lease

CONTROL_SECONDS: Final = 10.0
"""Seconds after which a control that is not renewed is free: its process has died, or has lost the database."""


@dataclass(frozen=True)
class Control:
    """One person's right to act, for as long as its lease is kept."""

    session: LiveSession
    actor: str
    token: str


class LiveControls:
    """`process`: this process's name in the leases."""

    def __init__(self, *, database: Database, process: str, seconds: float = CONTROL_SECONDS) -> None:
        self._database = database
        self._process = process
        self.seconds = seconds

    async def note_view(self, session: LiveSession, *, actor: str) -> None:
        """Record that a person watches the session."""
        async with self._database.transaction() as db:
            recorder.record(db, EventType.LIVE_VIEW_OPENED, actor=actor, **session.subject)

    async def take(self, session: LiveSession, *, actor: str) -> Control | None:
        """Take the control in one statement; None while another person has it."""
        token = new_lease_token()
        values = {
            "controller": actor,
            **lease_columns(token, owner=self._process, seconds=self.seconds),
        }
        async with self._database.transaction() as db:
            row = insert_or_update(db, LiveControl).values(session_id=session.session_id, **values)
            taken = row.on_conflict_do_update(
                index_elements=[LiveControl.session_id], set_=values, where=has_no_lease(LiveControl)
            )
            if await db.scalar(taken.returning(LiveControl.lease_token)) != token:
                return None
            recorder.record(db, EventType.LIVE_CONTROL_TAKEN, actor=actor, **session.subject)
        return Control(session, actor, token)

    async def renew(self, control: Control) -> bool:
        """Keep the control; False when it is lost."""
        return await renew_lease(self._database, LiveControl, *_guard(control), seconds=self.seconds)

    async def release(self, control: Control) -> None:
        """Give the control back."""
        async with self._database.transaction() as db:
            freed = await db.scalar(
                delete(LiveControl).where(*_guard(control)).returning(LiveControl.session_id)
            )
            if freed is not None:
                recorder.record(
                    db, EventType.LIVE_CONTROL_RELEASED, actor=control.actor, **control.session.subject
                )


def _guard(control: Control) -> tuple[ColumnElement[bool], ...]:
    return LiveControl.session_id == control.session.session_id, LiveControl.lease_token == control.token
