"""Encryption keys: which ones stored values need; ids and numbers, never a key or a value."""

from fastapi import APIRouter, Request, Response

from app.api.dependencies import ContextDep, FleetAdminCallerDep
from app.dashboard.page_route import SignedInRoute
from app.dashboard.pages import render
from app.services.tokens import key_audit
from app.services.webhooks import key_rotation
from app.services.webhooks.vault import WebhookVault

router = APIRouter(prefix="/ui", route_class=SignedInRoute, include_in_schema=False)


@router.get("/encryption-keys")
async def show_encryption_keys(
    request: Request, _caller: FleetAdminCallerDep, context: ContextDep
) -> Response:
    """Show which keys stored values need. Tokens are counted in a bounded number of rows, none is opened."""
    async with context.database.reading() as db:
        tokens = await key_audit.count_oldest(db)
    webhooks = await key_rotation.audit(context.database, WebhookVault(key_ring=context.settings.key_ring))
    key_ids = context.tokens.vault.key_ids
    return render(
        request,
        "encryption_keys.html",
        key_ids=key_ids,
        writing_id=context.tokens.vault.writing_key_id,
        tokens=tokens,
        webhooks=webhooks,
        missing=sorted(tokens.values.keys() - set(key_ids)),
    )
