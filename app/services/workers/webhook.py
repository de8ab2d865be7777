"""Tells webhooks of events: makes deliveries of new events, and sends those that are due."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from app.clients.webhooks import WebhookAnswer, WebhookClient
from app.services.leases import kept_alive
from app.services.webhook_deliveries import Claim, WebhookDeliveries
from app.services.webhook_fanout import WebhookFanout
from app.services.webhook_message import Message, signed_headers
from app.services.workers.base import Worker
from app.utils.tasks import happens_within

_LOOK_EVERY: Final = 1.0
"""Seconds; also after a failure, until an endpoint is tried again with whatever else is due for it."""


class WebhookWorker(Worker):
    """Each endpoint has a task of its own while something is due for it, and its own limit: none delays another."""

    name = "webhooks"

    def __init__(
        self, *, fanout: WebhookFanout, deliveries: WebhookDeliveries, client: WebhookClient
    ) -> None:
        super().__init__()
        self._fanout = fanout
        self._deliveries = deliveries
        self._client = client
        self._under_way: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        try:
            while not self._stop.is_set():
                if not await self._seen_to(self.run_once):
                    await self._pause(_LOOK_EVERY)
            await self.finish_started()  # each has the attempt's deadline
        finally:
            left = list(self._under_way.values())
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def run_once(self) -> int:
        """Take up new events, and start on endpoints for which something is due; how many events were looked at."""
        looked_at = await self._fanout.run_once()
        for webhook_id in await self._deliveries.due_endpoints():
            if webhook_id not in self._under_way:
                self._under_way[webhook_id] = asyncio.create_task(self._serve(webhook_id))
        return looked_at

    async def finish_started(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way.values())

    async def _serve(self, webhook_id: int) -> None:
        """Until nothing is due; after a failure there is a pause."""
        try:
            while not self._stop.is_set():
                went_well = await self._deliver_some(webhook_id)
                if went_well is None:
                    return
                if not went_well:
                    await happens_within(self._stop, _LOOK_EVERY)
        finally:
            del self._under_way[webhook_id]

    async def _deliver_some(self, webhook_id: int) -> bool | None:
        """Whether all was taken; None: nothing is due."""
        try:
            claim = await self._deliveries.claim(webhook_id)
            if claim is None:
                return None
            answers = await self._send(claim)
            await self._deliveries.apply(claim, answers)
        except Exception as error:  # the database is away, the lease was lost, a key is missing
            self._failed(error)
            return False
        return all(answer.succeeded for answer in answers.values())

    async def _send(self, claim: Claim) -> dict[int, WebhookAnswer]:
        """What became of each; a stop leaves out those that were not begun. Raises `LeaseLostException`."""
        limits, answers = self._deliveries.limits, dict[int, WebhookAnswer]()
        room = asyncio.Semaphore(limits.concurrency)

        async def send(delivery_id: int, message: Message) -> None:
            async with room:
                if not self._stop.is_set():
                    headers = signed_headers(message, claim.secrets)
                    answers[delivery_id] = await self._client.post(
                        claim.url, body=message.body, headers=headers
                    )

        async with (
            kept_alive(lambda: self._deliveries.renew(claim), seconds=limits.lease),
            asyncio.TaskGroup() as tasks,
        ):
            for delivery_id, message in claim.messages.items():
                if message is not None:
                    tasks.create_task(send(delivery_id, message))
        return answers

    async def _seen_to(self, work: Callable[[], Awaitable[int]]) -> int:
        try:
            done = await work()
        except Exception as error:  # the database is away
            self._failed(error)
            return 0
        self._succeeded()
        return done
