"""Directory of profiles and their accounts: by a link made by hand, else by the rule of the settings."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import EventType, Profile
from app.services.events import recorder
from app.services.profiles.account_rule import AccountRule
from app.services.shared import paging
from app.services.shared.access import EVERYTHING, AccessScope
from app.services.shared.paging import Page, PageRequest
from app.utils.exceptions import (
    AppException,
    ProfileConflictException,
    ProfileNotFoundException,
    ProfileQuarantinedException,
    UnknownProfileException,
)

SortField = Literal["profile_name", "twitter_username", "created_at", "updated_at", "last_synced"]


@dataclass(frozen=True)
class ProfileFilter:
    """Filter of the list; None matches all."""

    account_id: str | None = None
    api_app: str | None = None
    is_active: bool | None = None
    in_use: bool | None = None
    is_quarantined: bool | None = None
    text: str | None = None
    """Part of the name, the account or the profile id, in any case."""


class ProfileDirectory:
    """Takes the caller's database session; does no network."""

    def __init__(self, *, rule: AccountRule) -> None:
        self._rule = rule

    async def get_for_account(self, db: AsyncSession, account_id: str, api_app: str) -> Profile:
        """The profile to authorise the account in: a link wins over the rule, one for the app over one for any.

        Raises `ProfileNotFoundException`, `ProfileConflictException`, `ProfileQuarantinedException`.
        """
        return _choose(account_id, await self.list_for_account(db, account_id, api_app=api_app))

    async def get_for_accounts(
        self, db: AsyncSession, keys: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], Profile | AppException]:
        """`get_for_account` of many accounts and apps with one query: the profile of each, or what it would raise."""
        accounts = {account_id for account_id, _ in keys}
        query = select(Profile).where(Profile.account_id.in_(accounts), Profile.is_active)
        by_account: dict[str | None, list[Profile]] = {}
        for profile in await db.scalars(query.order_by(Profile.id)):
            by_account.setdefault(profile.account_id, []).append(profile)
        choices: dict[tuple[str, str], Profile | AppException] = {}
        for account_id, api_app in keys:
            candidates = [each for each in by_account.get(account_id, ()) if each.api_app in (api_app, None)]
            try:
                choices[account_id, api_app] = _choose(account_id, sorted(candidates, key=_rank))
            except AppException as error:
                choices[account_id, api_app] = error
        return choices

    async def list_for_account(
        self,
        db: AsyncSession,
        account_id: str,
        *,
        api_app: str | None = None,
        access: AccessScope = EVERYTHING,
    ) -> Sequence[Profile]:
        """The account's active profiles, for the app or for any, the one to use first. Raises `OutOfReachException`."""
        access.require_account(account_id)
        query = select(Profile).where(
            Profile.account_id == account_id, Profile.is_active, _is_covered(access)
        )
        if api_app is not None:
            query = query.where(or_(Profile.api_app == api_app, Profile.api_app.is_(None)))
        profiles = (await db.scalars(query.order_by(Profile.id))).all()
        return sorted(profiles, key=_rank)

    async def get(self, db: AsyncSession, profile_id: str, *, access: AccessScope = EVERYTHING) -> Profile:
        """Raises `UnknownProfileException`, also for a profile that `access` does not cover; so do those below."""
        profile: Profile | None = await db.scalar(
            select(Profile).where(Profile.profile_id == profile_id, _is_covered(access))
        )
        if profile is None:
            raise UnknownProfileException(profile_id)
        return profile

    async def fetch_page(
        self,
        db: AsyncSession,
        filters: ProfileFilter,
        request: PageRequest,
        *,
        access: AccessScope = EVERYTHING,
    ) -> Page[Profile]:
        """`request.sort`: one of `SortField`."""
        query = select(Profile).where(_is_covered(access))
        if request.sort == "twitter_username":
            request = replace(request, sort="account_id")
        exact = {
            Profile.account_id: filters.account_id,
            Profile.api_app: filters.api_app,
            Profile.is_active: filters.is_active,
            Profile.in_use: filters.in_use,
        }
        for column, value in exact.items():
            if value is not None:
                query = query.where(column == value)
        if filters.is_quarantined is not None:
            query = query.where(Profile.quarantined_at.is_not(None) == filters.is_quarantined)
        if filters.text:
            columns = (Profile.profile_name, Profile.account_id, Profile.profile_id)
            query = query.where(or_(*(column.icontains(filters.text, autoescape=True) for column in columns)))
        return await paging.fetch_page(db, query, Profile, request)

    async def link(
        self,
        db: AsyncSession,
        profile_id: str,
        *,
        account_id: str,
        api_app: str | None,
        actor: str,
        access: AccessScope = EVERYTHING,
    ) -> Profile:
        """Say by hand whose profile it is; a link of a profile that is gone gives way.

        Raises `OutOfReachException`, `UnknownProfileException`, `ProfileConflictException`.
        """
        access.require(account_id, api_app)
        profile = await self.get(db, profile_id, access=access)
        same_place = (
            Profile.is_linked,
            Profile.account_id == account_id,
            Profile.api_app == api_app if api_app is not None else Profile.api_app.is_(None),
            Profile.profile_id != profile_id,
        )
        for other in (await db.scalars(select(Profile).where(*same_place))).all():
            if other.is_active:
                raise ProfileConflictException(account_id, [other.profile_id, profile_id])
            self._unlink(other)
        await db.flush()
        profile.account_id, profile.api_app, profile.is_linked = account_id, api_app, True
        try:
            await db.flush()
        except IntegrityError:  # another transaction linked one meanwhile
            raise ProfileConflictException(account_id, [profile_id]) from None
        recorder.record(
            db,
            EventType.PROFILE_LINKED,
            actor=actor,
            account_id=account_id,
            api_app=api_app,
            profile_id=profile_id,
        )
        return profile

    async def unlink(
        self, db: AsyncSession, profile_id: str, *, actor: str, access: AccessScope = EVERYTHING
    ) -> Profile:
        """Let the rule decide the profile's account again. Raises `UnknownProfileException`."""
        profile = await self.get(db, profile_id, access=access)
        if profile.is_linked:
            recorder.record(
                db,
                EventType.PROFILE_UNLINKED,
                actor=actor,
                account_id=profile.account_id,
                api_app=profile.api_app,
                profile_id=profile_id,
            )
            self._unlink(profile)
        return profile

    async def release(
        self, db: AsyncSession, profile_id: str, *, actor: str, access: AccessScope = EVERYTHING
    ) -> Profile:
        """End the quarantine: an operator has seen that no browser of the profile runs.

        Raises `UnknownProfileException`.
        """
        profile = await self.get(db, profile_id, access=access)
        if profile.quarantined_at is not None:
            reason = profile.quarantine_reason
            await db.execute(
                update(Profile)
                .where(Profile.profile_id == profile_id)
                .values(quarantined_at=None, quarantine_reason=None)
            )
            recorder.record(db, EventType.PROFILE_RELEASED, actor=actor, profile_id=profile_id, reason=reason)
            await db.refresh(profile)
        return profile

    def _unlink(self, profile: Profile) -> None:
        owner = self._rule.find_owner(profile.profile_name, profile.profile_metadata)
        profile.account_id, profile.api_app, profile.is_linked = owner.account_id, owner.api_app, False


def _is_covered(access: AccessScope) -> ColumnElement[bool]:
    return access.condition(Profile.account_id, Profile.api_app)


def _choose(account_id: str, profiles: Sequence[Profile]) -> Profile:
    """Return the account's profiles, the one to use first."""
    if not profiles:
        raise ProfileNotFoundException(account_id)
    best = [profile for profile in profiles if _rank(profile) == _rank(profiles[0])]
    if len(best) > 1:
        raise ProfileConflictException(account_id, [profile.profile_id for profile in best])
    if best[0].quarantined_at is not None:
        raise ProfileQuarantinedException(best[0].profile_id)
    return best[0]


def _rank(profile: Profile) -> tuple[bool, bool]:
    return (not profile.is_linked, profile.api_app is None)
