"""Webhooks in the database of the settings, or at a service."""

from datetime import timedelta
from typing import Final
from urllib.parse import quote

from app.api.schemas.webhook import (
    CreateWebhookRequest,
    ReplayedWebhookResponse,
    ReplayWebhookRequest,
    TestedWebhookResponse,
    WebhookResponse,
)
from app.client import AsyncClient
from app.context import Context
from app.services.keys.service import Caller, Scope
from app.services.webhooks import queries

_CALLER: Final = Caller("cli", frozenset({Scope.WEBHOOKS}))


class LocalWebhooks:
    def __init__(self, context: Context) -> None:
        self._webhooks, self._database = context.events.webhooks, context.database

    async def create(self, wanted: CreateWebhookRequest) -> tuple[str, str]:
        """Create a webhook; return its id and secret."""
        row, secret = await self._webhooks.create(wanted.order(), _CALLER)
        return row.endpoint_id, secret.get_secret_value()

    async def listed(self) -> list[WebhookResponse]:
        async with self._database.reading() as db:
            views = await queries.all_within(db, _CALLER.reach)
        return [WebhookResponse.from_view(view) for view in views]

    async def get(self, webhook_id: str) -> WebhookResponse:
        async with self._database.reading() as db:
            row = await self._webhooks.get(db, webhook_id, _CALLER)
            return WebhookResponse.from_view(await queries.view(db, row))

    async def rotate(self, webhook_id: str, *, overlap: int, force: bool = False) -> str:
        """`overlap`: seconds. The new secret."""
        secret = await self._webhooks.rotate(
            webhook_id, _CALLER, overlap=timedelta(seconds=overlap), force=force
        )
        return secret.get_secret_value()

    async def pause(self, webhook_id: str) -> None:
        async with self._database.transaction() as db:
            await self._webhooks.pause(db, webhook_id, _CALLER)

    async def resume(self, webhook_id: str) -> None:
        async with self._database.transaction() as db:
            await self._webhooks.resume(db, webhook_id, _CALLER)

    async def test(self, webhook_id: str) -> TestedWebhookResponse:
        return TestedWebhookResponse.of_answer(await self._webhooks.test(webhook_id, _CALLER))

    async def replay(self, webhook_id: str, wanted: ReplayWebhookRequest) -> ReplayedWebhookResponse:
        async with self._database.transaction() as db:
            begun = await self._webhooks.replay(db, webhook_id, _CALLER, since=wanted.begin)
        return ReplayedWebhookResponse(**vars(begun))

    async def delete(self, webhook_id: str) -> None:
        async with self._database.transaction() as db:
            await self._webhooks.delete(db, webhook_id, _CALLER)


class RemoteWebhooks(AsyncClient):
    async def create(self, wanted: CreateWebhookRequest) -> tuple[str, str]:
        made = await self.call("POST", "/webhooks", json=wanted.model_dump(mode="json"))
        return made["id"], made["secret"]

    async def listed(self) -> list[WebhookResponse]:
        return [WebhookResponse.model_validate(row) for row in await self.call("GET", "/webhooks")]

    async def get(self, webhook_id: str) -> WebhookResponse:
        return WebhookResponse.model_validate(await self.call("GET", _path(webhook_id)))

    async def rotate(self, webhook_id: str, *, overlap: int, force: bool = False) -> str:
        made = await self.call(
            "POST", _path(webhook_id, "/rotate"), json={"overlap_seconds": overlap, "force": force}
        )
        return str(made["secret"])

    async def pause(self, webhook_id: str) -> None:
        await self.call("POST", _path(webhook_id, "/pause"))

    async def resume(self, webhook_id: str) -> None:
        await self.call("POST", _path(webhook_id, "/resume"))

    async def test(self, webhook_id: str) -> TestedWebhookResponse:
        return TestedWebhookResponse.model_validate(await self.call("POST", _path(webhook_id, "/test")))

    async def replay(self, webhook_id: str, wanted: ReplayWebhookRequest) -> ReplayedWebhookResponse:
        body = wanted.model_dump(mode="json")
        return ReplayedWebhookResponse.model_validate(
            await self.call("POST", _path(webhook_id, "/replay"), json=body)
        )

    async def delete(self, webhook_id: str) -> None:
        await self.call("DELETE", _path(webhook_id))


def _path(webhook_id: str, action: str = "") -> str:
    return f"/webhooks/{quote(webhook_id, safe='')}{action}"
