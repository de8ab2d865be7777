"""The stored secrets of webhooks: encrypted anew by the key that writes, and whether each opens."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import select

from app.database import Database
from app.models import WebhookEndpoint, WebhookStatus
from app.services.webhooks.vault import WebhookVault
from app.utils.crypto import find_key_id
from app.utils.exceptions import DecryptionException

_STORED: Final = select(WebhookEndpoint).where(WebhookEndpoint.status != WebhookStatus.DELETED)


@dataclass
class WebhookSecrets:
    values: Counter[str] = field(default_factory=Counter)
    """Number of values that open, by the id of the key that wrote them before."""
    rotated: int = 0
    """Webhooks."""
    unreadable: list[str] = field(default_factory=list)
    """Ids of webhooks with a secret that no key opens; it is left as it is."""


async def rotate(database: Database, vault: WebhookVault) -> WebhookSecrets:
    """Re-encrypt all secrets in one short transaction: a service has a few dozen webhooks at most."""
    async with database.transaction() as db:
        return _look_at((await db.scalars(_STORED.with_for_update())).all(), vault)


async def audit(database: Database, vault: WebhookVault) -> WebhookSecrets:
    """The same without a change."""
    async with database.reading() as db:
        rows = (await db.scalars(_STORED)).all()
        db.expunge_all()
    return _look_at(rows, vault)


def _look_at(rows: Sequence[WebhookEndpoint], vault: WebhookVault) -> WebhookSecrets:
    report = WebhookSecrets()
    for row in rows:
        old = {"secret": row.secret, "previous_secret": row.previous_secret}
        try:
            new = vault.reseal(row)
        except DecryptionException:
            report.unreadable.append(row.endpoint_id)
            continue
        report.values.update(key_id for value in old.values() if value and (key_id := find_key_id(value)))
        if new != old:
            report.rotated += 1
            row.secret, row.previous_secret = new["secret"] or row.secret, new["previous_secret"]
    return report
