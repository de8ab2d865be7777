"""Session, the process that runs it and the person who controls it: found together, by one statement."""

from dataclasses import dataclass

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import database_time
from app.models import AuthorizationSession, LiveControl, Process, SessionStage, SessionStatus
from app.services.shared.access import AccessScope
from app.utils.exceptions import SessionNotFoundException


@dataclass(frozen=True)
class LiveSession:
    """A session as a viewer needs it."""

    session_id: str
    account_id: str
    api_app: str
    profile_id: str
    request_id: str
    status: SessionStatus
    stage: SessionStage | None
    error_code: str | None
    process: str | None
    """Name of the process that runs it; None when none does, or when that one serves no internal address."""
    machine: str | None
    address: str | None
    certificate: str | None
    controller: str | None
    """Name of the key of the person who has the control."""

    @property
    def subject(self) -> dict[str, str]:
        """Subject of an event about the session."""
        names = ("session_id", "account_id", "api_app", "profile_id", "request_id")
        return {name: getattr(self, name) for name in names}


async def find_live_session(db: AsyncSession, session_id: str, *, access: AccessScope) -> LiveSession:
    """Raises `SessionNotFoundException`, also for a session that `access` does not cover."""
    row = AuthorizationSession
    query = (
        select(
            row.session_id,
            row.account_id,
            row.api_app,
            row.profile_id,
            row.request_id,
            row.status,
            row.stage,
            row.error_code,
            Process.owner.label("process"),
            Process.machine,
            Process.address,
            Process.certificate,
            LiveControl.controller,
        )
        .outerjoin(Process, and_(Process.owner == row.lease_owner, row.status == SessionStatus.IN_PROGRESS))
        .outerjoin(
            LiveControl,
            and_(LiveControl.session_id == row.session_id, LiveControl.lease_expires_at > database_time()),
        )
        .where(row.session_id == session_id, access.condition(row.account_id, row.api_app))
    )
    found = (await db.execute(query)).mappings().one_or_none()
    if found is None:
        raise SessionNotFoundException(session_id)
    return LiveSession(**found)
