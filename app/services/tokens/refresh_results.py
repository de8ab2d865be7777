"""Results of refreshes, written to their rows: many in one transaction, each fenced by the version that it spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Credential, CredentialStatus
from app.services.events import recorder
from app.services.shared.leases import NO_LEASE

NOT_HELD: Final[Mapping[str, Any]] = {"spending_version": None, **NO_LEASE}

NO_FAILURES: Final[dict[str, Any]] = {
    "refresh_failures": 0,
    "refresh_refusals": 0,
    "refused_since": None,
    "refresh_error_code": None,
    "unusable_since": None,
}


@dataclass(frozen=True)
class RefreshClaim:
    """A refresh that this process may make; the refresh token was read inside the lock."""

    credential_id: int
    account_id: str
    api_app: str
    version: int
    lease_token: str
    refresh_token: SecretStr
    row_made_at: datetime
    """An id may come again after its row was deleted; id and this together do not."""


@dataclass(frozen=True)
class RefreshResult:
    """The columns of a new token set, and the event that tells of it."""

    claim: RefreshClaim
    values: dict[str, Any]
    event: dict[str, Any]


async def save_all(db: AsyncSession, results: Sequence[RefreshResult]) -> list[bool]:
    """Save results and return those that are saved; the others' rows have newer tokens, or are forgotten."""
    ids = [result.claim.credential_id for result in results]
    query = (
        select(Credential.id, Credential.created_at, Credential.version)
        .where(Credential.id.in_(ids), Credential.status != CredentialStatus.REVOKING)
        .order_by(Credential.id)  # locked in one order by all processes
        .with_for_update()
    )
    versions = {row_id: (made_at, version) for row_id, made_at, version in await db.execute(query)}
    saved: list[RefreshResult] = []
    outcomes = []
    for result in results:
        is_current = versions.get(result.claim.credential_id) == (
            result.claim.row_made_at,
            result.claim.version,
        )
        if is_current:
            del versions[result.claim.credential_id]  # of two results for one version the first counts
            saved.append(result)
        outcomes.append(is_current)
    if saved:
        await db.execute(_UPDATE, [{"row": each.claim.credential_id, **each.values} for each in saved])
        await recorder.record_all(db, [each.event for each in saved])
    return outcomes


_UPDATE: Final = update(Credential.__table__).where(Credential.__table__.c.id == bindparam("row"))  # type: ignore[arg-type]
