"""OAuth apps that fail by their own fault: after some failures in a row an app is paused, before it costs more."""

from datetime import timedelta

from sqlalchemy import null, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import insert_or_update
from app.models import AppState, utc_now
from app.services import event_service
from app.services.reach import EVERYTHING, Reach
from app.utils.exceptions import AppException, AppLimitedException, AppPausedException
from app.utils.logger import get_logger
from app.utils.waits import bounded_wait

log = get_logger(__name__)


class AppStates:
    """`pause_after`: failures in a row. Takes the caller's database session."""

    def __init__(self, *, pause_after: int) -> None:
        self._pause_after = pause_after

    async def refuse_paused(self, session: AsyncSession, api_app: str) -> None:
        """Raises `AppPausedException`."""
        reason = await session.scalar(
            select(AppState.reason).where(AppState.api_app == api_app, AppState.paused_at.is_not(None))
        )
        if reason is not None:
            raise AppPausedException(api_app, reason)

    async def refuse_stopped(self, session: AsyncSession, api_app: str) -> None:
        """Raises `AppPausedException`, or `AppLimitedException` while the provider limits the app's rate."""
        await self.refuse_paused(session, api_app)
        until = await session.scalar(select(AppState.limited_until).where(AppState.api_app == api_app))
        if until is not None and (left := (until - utc_now()).total_seconds()) > 0:
            raise AppLimitedException(api_app, left)

    async def paused(self, session: AsyncSession, *, reach: Reach = EVERYTHING) -> list[AppState]:
        in_reach = reach.condition(null(), AppState.api_app)
        paused = select(AppState).where(AppState.paused_at.is_not(None), in_reach)
        return list(await session.scalars(paused.order_by(AppState.api_app)))

    async def succeeded(self, session: AsyncSession, api_app: str) -> None:
        """The row is over; a pause that an operator has not ended stays."""
        await session.execute(
            update(AppState)
            .where(AppState.api_app == api_app, AppState.failures_in_a_row > 0)
            .values(failures_in_a_row=0)
        )

    async def failed(self, session: AsyncSession, api_app: str, error: AppException) -> None:
        """Count a failure of the app itself, and pause it when there are too many in a row."""
        insert = insert_or_update(session, AppState).values(api_app=api_app, failures_in_a_row=1)
        counted = insert.on_conflict_do_update(
            index_elements=[AppState.api_app], set_={"failures_in_a_row": AppState.failures_in_a_row + 1}
        ).returning(AppState.failures_in_a_row)
        failures = await session.scalar(counted)
        if failures is None or failures < self._pause_after:
            return
        paused = await session.execute(
            update(AppState)
            .where(AppState.api_app == api_app, AppState.paused_at.is_(None))
            .values(paused_at=utc_now(), reason=f"{error.error_code} {failures} times in a row")
        )
        if paused.rowcount:  # type: ignore[attr-defined]
            event_service.record(
                session, "app.paused", api_app=api_app, error_code=error.error_code, failures=failures
            )
            log.error("app.paused", api_app=api_app, error_code=error.error_code, failures=failures)

    async def limited(self, session: AsyncSession, api_app: str, *, seconds: float) -> None:
        """The provider limits the app's rate: nothing of it is called before the seconds are over."""
        seconds = bounded_wait(seconds)
        until = utc_now() + timedelta(seconds=seconds)
        insert = insert_or_update(session, AppState).values(
            api_app=api_app, failures_in_a_row=0, limited_until=until
        )
        await session.execute(
            insert.on_conflict_do_update(index_elements=[AppState.api_app], set_={"limited_until": until})
        )
        log.warning("app.limited", api_app=api_app, seconds=round(seconds, 1))

    async def resume(
        self, session: AsyncSession, api_app: str, *, actor: str, reach: Reach = EVERYTHING
    ) -> bool:
        """Let the app's sessions start again; False when it was not paused. Raises `OutOfReachException`."""
        reach.require(None, api_app)
        resumed = await session.execute(
            update(AppState)
            .where(AppState.api_app == api_app, AppState.paused_at.is_not(None))
            .values(paused_at=None, reason=None, failures_in_a_row=0)
        )
        if resumed.rowcount:  # type: ignore[attr-defined]
            event_service.record(session, "app.resumed", actor=actor, api_app=api_app)
        return bool(resumed.rowcount)  # type: ignore[attr-defined]
