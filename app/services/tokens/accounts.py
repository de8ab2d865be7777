"""Lists of accounts with tokens and their state; never the tokens."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database
from app.models import Credential, CredentialStatus
from app.services.shared import paging
from app.services.shared.access import EVERYTHING, AccessScope
from app.services.shared.paging import Page, PageRequest

BATCH_SIZE: Final = 500

SortField = Literal["account_id", "token_expires_at", "refreshed_at", "updated_at"]


@dataclass(frozen=True)
class AccountFilter:
    """Filter of the list; None matches all."""

    api_app: str | None = None
    status: CredentialStatus | None = None
    text: str | None = None


async def list_for_account(
    db: AsyncSession, account_id: str, *, access: AccessScope = EVERYTHING
) -> Sequence[Credential]:
    """One row for each app. Raises `OutOfReachException`."""
    access.require_account(account_id)
    is_covered = access.condition(Credential.account_id, Credential.api_app)
    query = select(Credential).where(Credential.account_id == account_id, is_covered)
    rows = await db.scalars(query.order_by(Credential.api_app))
    return rows.all()


async def fetch_page(
    db: AsyncSession, filters: AccountFilter, request: PageRequest, *, access: AccessScope = EVERYTHING
) -> Page[Credential]:
    """`request.sort`: one of `SortField`."""
    query = select(Credential).where(access.condition(Credential.account_id, Credential.api_app))
    if filters.api_app is not None:
        query = query.where(Credential.api_app == filters.api_app)
    if filters.status is not None:
        query = query.where(Credential.status == filters.status)
    if filters.text:
        query = query.where(Credential.account_id.contains(filters.text.lower(), autoescape=True))
    return await paging.fetch_page(db, query, Credential, request)


async def batches(
    database: Database, condition: ColumnElement[bool] | None = None, *, size: int = BATCH_SIZE
) -> AsyncIterator[Sequence[Credential]]:
    """Every row, or those of a condition, in the order of their ids; no transaction is open between two batches."""
    query = select(Credential).where(true() if condition is None else condition).order_by(Credential.id)
    last = 0
    while True:
        async with database.reading() as db:
            rows = (await db.scalars(query.where(Credential.id > last).limit(size))).all()
        if not rows:
            return
        yield rows
        last = rows[-1].id
