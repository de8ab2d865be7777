"""Evidence of failed attempts: written with the attempt's end, read by operators."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer

from app.models import AuthorizationSession, Evidence
from app.services.interfaces import PageEvidence
from app.services.shared.access import EVERYTHING, AccessScope
from app.utils.exceptions import ScreenshotNotFoundException, SessionNotFoundException


def record(db: AsyncSession, row: AuthorizationSession, page: PageEvidence) -> None:
    """Store the evidence of the attempt whose number the row carries."""
    texts = (page.url, page.title, *page.test_ids, *page.console)
    db.add(
        Evidence(
            session_id=row.session_id,
            attempt=row.attempts,
            url=page.url,
            title=page.title,
            test_ids=list(page.test_ids),
            console=list(page.console),
            screenshot=page.screenshot,
            size_bytes=sum(len(text.encode()) for text in texts) + len(page.screenshot or b""),
        )
    )


async def fetch_all(
    db: AsyncSession, session_id: str, *, access: AccessScope = EVERYTHING
) -> Sequence[tuple[Evidence, bool]]:
    """Return the evidence of all attempts, each with whether it has a screenshot. Raises `SessionNotFoundException`."""
    await _require_session(db, session_id, access)
    query = (
        select(Evidence, Evidence.screenshot.is_not(None))
        .where(Evidence.session_id == session_id)
        .order_by(Evidence.attempt)
    )
    return [(row, has_screenshot) for row, has_screenshot in await db.execute(query)]


async def screenshot(
    db: AsyncSession, session_id: str, *, attempt: int | None = None, access: AccessScope = EVERYTHING
) -> tuple[int, bytes]:
    """The attempt's number and its JPEG; of the last attempt that has one unless `attempt` is given.

    Raises `SessionNotFoundException`, `ScreenshotNotFoundException`.
    """
    await _require_session(db, session_id, access)
    query = select(Evidence).where(Evidence.session_id == session_id, Evidence.screenshot.is_not(None))
    if attempt is not None:
        query = query.where(Evidence.attempt == attempt)
    last = query.order_by(Evidence.attempt.desc()).limit(1).options(undefer(Evidence.screenshot))
    row = await db.scalar(last)
    if row is None or row.screenshot is None:
        raise ScreenshotNotFoundException(session_id)
    return row.attempt, row.screenshot


async def _require_session(db: AsyncSession, session_id: str, access: AccessScope) -> None:
    is_covered = access.condition(AuthorizationSession.account_id, AuthorizationSession.api_app)
    is_session = AuthorizationSession.session_id == session_id
    if await db.scalar(select(AuthorizationSession.id).where(is_session, is_covered)) is None:
        raise SessionNotFoundException(session_id)
