"""Which accounts have tokens, and how they are; never the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

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
    total = await session.scalar(_filtered(select(func.count()).select_from(Credential), wanted)) or 0
    column = Credential.__table__.c[sort]
    order = column.desc() if descending else column.asc()
    rows = await session.scalars(
        _filtered(select(Credential), wanted)
        .order_by(order.nulls_last(), Credential.id)
        .limit(page_size)
        .offset((page - 1) * page_size)
    )
    return rows.all(), total


def _filtered(query: Select[Any], wanted: AccountFilter) -> Select[Any]:
    if wanted.api_app is not None:
        query = query.where(Credential.api_app == wanted.api_app)
    if wanted.status is not None:
        query = query.where(Credential.status == wanted.status)
    if wanted.text:
        query = query.where(Credential.account_id.contains(wanted.text.lower(), autoescape=True))
    return query
