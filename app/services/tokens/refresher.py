"""Refreshing a token set once, whoever asks and however many: the call, and saving what it brought, come what may."""

import asyncio
from datetime import datetime
from functools import partial
from pathlib import Path

from app.database import Database
from app.models import utc_now
from app.services.interfaces import OAuthServiceProtocol, TokenSet
from app.services.oauth.app_state import AppStates
from app.services.oauth.rate_limits import ProviderRateLimits
from app.services.tokens.refresh_leases import AMBIGUOUS, RefreshLeases
from app.services.tokens.refresh_results import RefreshClaim
from app.services.tokens.spill import TokenSpill
from app.utils.exceptions import (
    AppException,
    DatabaseUnavailableException,
    FailureKind,
    InvalidGrantException,
    RefreshedJustNowException,
    TwitterAPIException,
)
from app.utils.logger import get_logger
from app.utils.retry import retry_while_unavailable
from app.utils.tasks import run_shielded

log = get_logger(__name__)


class TokenRefresher:
    """`save_for`: seconds for which a save is tried again from memory; the spilled copy is picked up later."""

    def __init__(
        self,
        *,
        database: Database,
        leases: RefreshLeases,
        oauth: OAuthServiceProtocol,
        apps: AppStates,
        budgets: ProviderRateLimits,
        spill: TokenSpill,
        save_for: float,
    ) -> None:
        self._database = database
        self._leases = leases
        self._oauth = oauth
        self._apps = apps
        self._budgets = budgets
        self._spill = spill
        self._save_for = save_for
        self._not_saved: set[tuple[int, int]] = set()
        self._running: dict[tuple[str, str, int, bool], asyncio.Task[AppException | None]] = {}

    async def refresh(
        self, account_id: str, api_app: str, *, version: int, force: bool = False
    ) -> AppException | None:
        """See to it that this version is refreshed: here, or by whoever is at it, in this process or another.

        `force`: also when the account was refreshed just now.

        Returns what went wrong, None when it was refreshed or when another process has it: look at the row.
        """
        key = (account_id, api_app, version, force)
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._refresh_if_free(account_id, api_app, version, force=force))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def finish(self, claim: RefreshClaim) -> AppException | None:
        """A refresh whose right is taken, to its end; what went wrong. Not interrupted: it spends the token."""
        return await run_shielded(self._finish(claim))

    async def pick_up_spilled(self) -> int:
        """Save what could not be saved before, here or in an earlier process; how many token sets.

        One that cannot be saved stays where it is, and keeps no other one back. Raises `DatabaseUnavailableException`:
        then the rest stays, too.
        """
        picked_up = 0
        for spilled in await self._spill.read_all():
            try:
                await self._save_once(spilled.claim, spilled.tokens, spilled.answered_at)
            except DatabaseUnavailableException:
                raise
            except Exception as error:
                self._log_not_saved(spilled.claim, error)
                continue
            await self._spill.remove(spilled.path)
            picked_up += 1
        return picked_up

    async def wait_for_running(self) -> None:
        """Wait until every refresh of this process has ended."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _refresh_if_free(
        self, account_id: str, api_app: str, version: int, *, force: bool
    ) -> AppException | None:
        try:
            async with self._database.reading() as db:
                self._budgets.forget(await self._apps.fetch_resume_times(db))
                await self._apps.ensure_callable(db, api_app)
            self._budgets.ensure_not_spent(api_app)
        except AppException as error:
            return error
        try:
            claim = await self._leases.take(account_id, api_app, version=version, force=force)
        except RefreshedJustNowException as error:
            return error
        return None if claim is None else await self.finish(claim)

    async def _finish(self, claim: RefreshClaim) -> AppException | None:
        try:
            tokens = await self._oauth.refresh_access_token(claim.api_app, claim.refresh_token)
        except AppException as error:
            # Unless this is written, the next one who comes must take the chain for ambiguous.
            await retry_while_unavailable(partial(self._handle_failure, claim, error), seconds=self._save_for)
            return error
        await self.save(claim, tokens, utc_now())
        return None

    async def _handle_failure(self, claim: RefreshClaim, error: AppException) -> None:
        log.warning(
            "credential.refresh_failed",
            account_id=claim.account_id,
            api_app=claim.api_app,
            error_code=error.error_code,
            error=error.message,
        )
        if isinstance(error, InvalidGrantException):
            await self._leases.break_chain(claim, error.error_code)
        elif isinstance(error, TwitterAPIException) and error.may_have_acted:
            await self._leases.break_chain(claim, AMBIGUOUS)
        else:
            # Also after a gateway's 502, which may hide a rotation: it is an answer, so nobody has tokens that a second
            # try could kill; and if the token is spent, trying and not trying end in the same new authorization.
            await self._leases.give_back(claim, error)
            await self._note_failure(claim, error)

    async def _note_failure(self, claim: RefreshClaim, error: AppException) -> None:
        """Keep the books of the app. They may fail alone: the lease is given back."""
        api_app = claim.api_app
        try:
            async with self._database.transaction() as db:
                if error.kind is FailureKind.APP:
                    await self._apps.count_failure(db, api_app, error)
                limit = error.limit if isinstance(error, TwitterAPIException) else None
                if limit is not None:
                    await self._apps.note_limit(db, claim.account_id, api_app, limit)
                elif error.retry_after is not None:
                    await self._apps.set_limit(db, api_app, seconds=error.retry_after, reason="retry-after")
        except Exception as problem:
            log.error("app.not_noted", api_app=api_app, exc_info=problem)

    async def save(self, claim: RefreshClaim, tokens: TokenSet, answered_at: datetime) -> None:
        """Save new tokens before anything else. What the database refuses is spilled to disk, then tried again.

        After an outage here; after any other error, which is raised, from the disk.
        """
        try:
            await self._save_once(claim, tokens, answered_at)
        except Exception as error:
            spilled: Path | None = None
            try:
                spilled = await self._spill.write(claim, tokens, answered_at=answered_at)
            except Exception as problem:  # the disk is full, too: memory is all that is left
                reason = problem.strerror if isinstance(problem, OSError) else type(problem).__name__
                log.error("credential.not_spilled", account_id=claim.account_id, error=reason)
            if not isinstance(error, DatabaseUnavailableException):
                self._log_not_saved(claim, error)
                raise
            save_once = partial(self._save_once, claim, tokens, answered_at)
            await retry_while_unavailable(save_once, seconds=self._save_for)
            if spilled is not None:
                await self._spill.remove(spilled)

    def _log_not_saved(self, claim: RefreshClaim, error: Exception) -> None:
        """Once a version in this process: a spilled one is tried again and again."""
        key = (claim.credential_id, claim.version)
        if key not in self._not_saved:
            self._not_saved.add(key)
            log.error(
                "credential.not_saved", account_id=claim.account_id, api_app=claim.api_app, exc_info=error
            )

    async def _save_once(self, claim: RefreshClaim, tokens: TokenSet, answered_at: datetime) -> None:
        if await self._leases.save(claim, tokens, answered_at=answered_at):
            return
        log.warning("credential.result_dropped", account_id=claim.account_id, api_app=claim.api_app)
        if await self._leases.is_forgotten(claim):
            try:
                await self._oauth.revoke_token(claim.api_app, tokens.refresh_token or tokens.access_token)
            except AppException as error:
                log.error("credential.not_revoked", account_id=claim.account_id, error_code=error.error_code)
