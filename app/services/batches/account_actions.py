"""Actions on all accounts that a filter matches: a dry run counts them, then the action is asked for with its count."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import announce
from app.models import Credential, CredentialStatus, EventType, utc_now
from app.services.batches.creation import BatchCommand
from app.services.batches.rows import InputRow
from app.services.batches.service import BatchService
from app.services.events import recorder
from app.services.keys.service import Caller
from app.services.shared.leases import has_no_lease
from app.services.tokens.account_views import AccountSelection, AccountViews
from app.services.tokens.service import REVOCATIONS_DUE
from app.utils.exceptions import AccountCountException, InvalidRequestException
from app.utils.request_id import accept_request_id, current_request_id

MAX_LISTED: Final = 20
"""Accounts that an answer names."""
_CHUNK: Final = 500
"""Accounts of one statement."""
_TOLERANCE: Final = 0.05
"""Share by which the number of accounts may have changed since the dry run: states change by the second."""

Account = tuple[str, str]
"""Account and app."""


class AccountAction(StrEnum):
    REFRESH = "refresh"
    AUTHORIZE = "authorize"
    REVOKE = "revoke"


@dataclass(frozen=True)
class ActionPlan:
    """Accounts that an action is for."""

    accounts: Sequence[Account]
    is_exact: bool
    """False: there are more, and the action is refused."""


@dataclass(frozen=True)
class ActionResult:
    accounts: Sequence[Account]
    changed: int
    """Accounts of which something was changed; the others had nothing to be done."""
    batch_id: str | None = None


class AccountActions:
    """Takes the caller's database session. Workers do the work, at their own pace. `max_accounts`: of one action."""

    def __init__(self, *, views: AccountViews, batches: BatchService, max_accounts: int) -> None:
        self._views = views
        self._batches = batches
        self._max_accounts = max_accounts

    async def plan(
        self, db: AsyncSession, action: AccountAction, filters: AccountSelection, *, caller: Caller
    ) -> ActionPlan:
        """Return the accounts that the filter matches and the caller may reach. Raises `InvalidRequestException`."""
        if action is AccountAction.AUTHORIZE and filters.state is None:
            return self._plan_named(filters, caller)
        keys = await self._views.select_keys(db, filters, access=caller.access, limit=self._max_accounts + 1)
        accounts = [(account_id, api_app) for account_id, api_app in keys if api_app is not None]
        if len(accounts) < len(keys):
            raise InvalidRequestException(
                f"filter.api_app: {len(keys) - len(accounts)} accounts have a profile for any app; name the app"
            )
        return ActionPlan(accounts[: self._max_accounts], len(accounts) <= self._max_accounts)

    async def run(
        self,
        db: AsyncSession,
        action: AccountAction,
        filters: AccountSelection,
        *,
        expected_count: int,
        caller: Caller,
    ) -> ActionResult:
        """Do the action for about `expected_count` accounts, in the caller's transaction.

        Raises `AccountCountException`, `InvalidRequestException`, and for sessions what `BatchService.request` does.
        """
        plan = await self.plan(db, action, filters, caller=caller)
        if not plan.is_exact:
            raise InvalidRequestException(
                f"The filter matches more than {self._max_accounts} accounts; narrow it, by app or by account_ids"
            )
        count = len(plan.accounts)
        if abs(count - expected_count) > expected_count * _TOLERANCE:
            raise AccountCountException(expected_count, count)
        result = await self._act(db, action, plan.accounts, caller)
        recorder.record(
            db,
            EventType.ACCOUNTS_ACTION_REQUESTED,
            actor=caller.name,
            api_app=filters.api_app,
            action=action,
            state=filters.state,
            named_accounts=None if filters.account_ids is None else len(filters.account_ids),
            accounts=count,
            changed=result.changed,
            batch_id=result.batch_id,
        )
        return result

    def _plan_named(self, filters: AccountSelection, caller: Caller) -> ActionPlan:
        """Return the accounts that the filter names, whatever their state."""
        if filters.account_ids is None or filters.api_app is None:
            raise InvalidRequestException(
                "filter: to authorize needs `state`, or `account_ids` and `api_app`"
            )
        api_app = filters.api_app
        accounts = [
            (account_id, api_app)
            for account_id in dict.fromkeys(filters.account_ids)
            if caller.access.covers(account_id, api_app)
        ]
        return ActionPlan(accounts[: self._max_accounts], len(accounts) <= self._max_accounts)

    async def _act(
        self, db: AsyncSession, action: AccountAction, accounts: Sequence[Account], caller: Caller
    ) -> ActionResult:
        if not accounts:
            return ActionResult(accounts, 0)
        match action:
            case AccountAction.REFRESH:
                return ActionResult(accounts, await _make_due(db, accounts))
            case AccountAction.REVOKE:
                return ActionResult(accounts, await _revoke(db, accounts, caller))
            case AccountAction.AUTHORIZE:
                rows = [InputRow(number, *account) for number, account in enumerate(accounts, start=1)]
                batch = await self._batches.request(db, BatchCommand(rows), caller=caller)
                return ActionResult(accounts, len(accounts), batch.batch_id)


async def _make_due(db: AsyncSession, accounts: Sequence[Account]) -> int:
    """Make the refreshes of the accounts due: the refresher paces them as those whose time has come."""
    now = utc_now()
    is_free = (
        Credential.status == CredentialStatus.ACTIVE,
        Credential.refresh_token.is_not(None),
        has_no_lease(Credential),
    )
    return len(await _update(db, accounts, is_free, refresh_due_at=now))


async def _revoke(db: AsyncSession, accounts: Sequence[Account], caller: Caller) -> int:
    """Mark the tokens of the accounts: nobody gets them any more, and the refresh worker revokes a few at a time."""
    now = utc_now()
    # A refresh that is under way loses its lease, and revokes what it brings.
    values = {"status": CredentialStatus.REVOKING, "unusable_since": now, "refresh_due_at": now}
    values |= {"lease_token": None, "lease_owner": caller.name[:128], "lease_expires_at": None}
    is_new = (Credential.status != CredentialStatus.REVOKING,)
    revoked = await _update(db, accounts, is_new, **values)
    if revoked:
        announce(db, REVOCATIONS_DUE)
        subjects: list[dict[str, Any]] = [
            {"account_id": account_id, "api_app": api_app, "session_id": None, "profile_id": None}
            for account_id, api_app in revoked
        ]
        await recorder.record_for_all(
            db,
            EventType.CREDENTIAL_REVOKING,
            subjects,
            actor=caller.name,
            request_id=accept_request_id(current_request_id()),
        )
    return len(revoked)


async def _update(
    db: AsyncSession, accounts: Sequence[Account], conditions: Sequence[ColumnElement[bool]], **values: Any
) -> list[Account]:
    """Update the tokens of accounts that meet the conditions; return those."""
    ids: list[int] = []
    for start in range(0, len(accounts), _CHUNK):
        has_key = tuple_(Credential.account_id, Credential.api_app).in_(accounts[start : start + _CHUNK])
        ids += await db.scalars(select(Credential.id).where(has_key))
    ids.sort()  # rows are locked in one order by all processes
    updated: list[Account] = []
    for start in range(0, len(ids), _CHUNK):
        chosen = (Credential.id.in_(ids[start : start + _CHUNK]), *conditions)
        locked = select(Credential.id).where(*chosen).order_by(Credential.id).with_for_update()
        rows = (await db.scalars(locked)).all()
        statement = update(Credential).where(Credential.id.in_(rows)).values(**values)
        returned = statement.returning(Credential.account_id, Credential.api_app)
        result = await db.execute(returned, execution_options={"synchronize_session": False})
        updated += [(account_id, api_app) for account_id, api_app in result]
    return updated
