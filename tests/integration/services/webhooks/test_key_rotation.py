"""The keys that encrypt webhooks' secrets are replaced, too."""

from datetime import timedelta

from sqlalchemy import select, update

from app.context import Context, open_context
from app.models import WebhookEndpoint
from app.services.keys.service import Caller, Scope
from app.services.webhooks import key_rotation
from app.services.webhooks.key_rotation import WebhookSecrets
from app.services.webhooks.service import WebhookChange
from app.services.webhooks.vault import WebhookVault
from tests.fixtures.key_lists import key_list
from tests.fixtures.settings import MakeSettings
from tests.fixtures.webhooks import fetch_all

CALLER = Caller("tests", frozenset({Scope.WEBHOOKS}))


def vault_of(context: Context) -> WebhookVault:
    return WebhookVault(key_ring=context.settings.key_ring)


async def test_both_secrets_are_encrypted_with_the_new_key_and_still_open(sandbox_settings: MakeSettings):
    changes = {"webhook_allow_private_addresses": True}
    async with open_context(sandbox_settings(encryption_keys=key_list("old", "new"), **changes)) as before:
        change = WebhookChange(url="http://127.0.0.1:9/hook")
        row, first = await before.events.webhooks.create(change, CALLER)
        second = await before.events.webhooks.rotate(row.endpoint_id, CALLER, overlap=timedelta(days=1))
        broken, _ = await before.events.webhooks.create(change, CALLER)
        async with before.database.transaction() as db:  # a value of another row
            await db.execute(
                update(WebhookEndpoint).where(WebhookEndpoint.id == broken.id).values(secret=row.secret)
            )
    async with open_context(sandbox_settings(encryption_keys=key_list("new", "old"), **changes)) as after:
        found = await key_rotation.rotate(after.database, vault_of(after))
        assert found == WebhookSecrets(found.values, 1, [broken.endpoint_id])
        assert found.values == {"old": 2}
        again = await key_rotation.rotate(after.database, vault_of(after))
        assert (again.rotated, again.values) == (0, {"new": 2})
        assert await key_rotation.audit(after.database, vault_of(after)) == again
    async with open_context(sandbox_settings(encryption_keys=key_list("new"), **changes)) as alone:
        rows = await fetch_all(alone.database, select(WebhookEndpoint).order_by(WebhookEndpoint.id))
        assert [each.secret.partition(":")[0] for each in rows] == ["new", "old"]
        (kept,) = [each for each in rows if each.endpoint_id == row.endpoint_id]
        assert vault_of(alone).open(kept) == [second, first]
