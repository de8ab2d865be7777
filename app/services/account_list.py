"""Which accounts have tokens, and how they are; never the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import page_of, sorted_by
from app.models import Credential, CredentialStatus

SortField = Literal["account_id", "token_expires_at", "refreshed_at", "updated_at"]


@dataclass(frozen=True)
class AccountFilter:
    """What to list; None: whatever."""

    api_app: str | None = None
    status: CredentialStatus | None = None
    text: str | None = None


async def of_account(session: AsyncSession, account_id: str) -> Sequence[Credential]:
    """One row for each app."""
    rows = await session.scalars(
        select(Credential).where(Credential.account_id == account_id).order_by(Credential.api_app)
    )
    return rows.all()


async def page(
    session: AsyncSession,
    wanted: AccountFilter,
    *,
    sort: SortField,
    descending: bool,
    page: int,
    page_size: int,
) -> tuple[Sequence[Credential], int]:
    """The rows of page `page` (from 1) and how many there are on all pages."""
    order = sorted_by(Credential, sort, descending=descending)
    return await page_of(
        session, _filtered(select(Credential), wanted), order, page=page, page_size=page_size
    )


def _filtered(query: Select[Any], wanted: AccountFilter) -> Select[Any]:
    if wanted.api_app is not None:
        query = query.where(Credential.api_app == wanted.api_app)
    if wanted.status is not None:
        query = query.where(Credential.status == wanted.status)
    if wanted.text:
        query = query.where(Credential.account_id.contains(wanted.text.lower(), autoescape=True))
    return query
