"""Tells webhooks of events: makes deliveries of new events, and sends those that are due."""

import asyncio
from collections.abc import Collection
from typing import Final

from app.clients.webhooks import WebhookAnswer, WebhookClient
from app.services.shared.leases import keep_alive
from app.services.webhooks.deliveries import Claim, WebhookDeliveries
from app.services.webhooks.fanout import WebhookFanout
from app.services.webhooks.message import signed_headers
from app.services.workers.base import Worker
from app.utils.tasks import wait_for_event

_POLL_INTERVAL: Final = 1.0
"""Seconds; also until an endpoint that fails is tried again with whatever else is due for it."""
_MIN_POLL_INTERVAL: Final = 0.2
"""Seconds: commits in quick succession are looked at together."""

Sending = asyncio.Task[tuple[Claim, WebhookAnswer]]


class WebhookWorker(Worker):
    """Each endpoint has a task of its own while something is due for it, and its own limit: none delays another."""

    name = "webhooks"

    def __init__(
        self,
        *,
        fanout: WebhookFanout,
        deliveries: WebhookDeliveries,
        client: WebhookClient,
        poll_interval: float = _POLL_INTERVAL,
        min_poll_interval: float = _MIN_POLL_INTERVAL,
    ) -> None:
        super().__init__()
        self._fanout = fanout
        self._deliveries = deliveries
        self._client = client
        self._poll_interval = poll_interval
        self._min_poll_interval = min_poll_interval
        self._under_way: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        try:
            while not self._stop.is_set():
                looked_at = await self._run_guarded(self.run_once)
                await wait_for_event(self._stop, self._min_poll_interval)
                if not looked_at:
                    await self._pause(self._poll_interval)
            await self.finish_started()  # each has the attempt's deadline
        finally:
            await _cancel(self._under_way.values())

    async def run_once(self) -> int:
        """Take up new events, and start on endpoints for which something is due; how many events were looked at."""
        looked_at = await self._fanout.run_once()
        if looked_at is None:  # nothing is due without an active endpoint
            return 0
        for endpoint_row_id in await self._deliveries.due_endpoints():
            if endpoint_row_id not in self._under_way:
                self._under_way[endpoint_row_id] = asyncio.create_task(self._serve(endpoint_row_id))
        return looked_at

    async def finish_started(self) -> None:
        if self._under_way:
            await asyncio.wait(self._under_way.values())

    async def _serve(self, endpoint_row_id: int) -> None:
        """Deliver until nothing is due or under way. Each end makes room at once: no slow account delays the others."""
        sending: set[Sending] = set()
        try:
            while True:
                claims = await self._claim(endpoint_row_id, len(sending))
                sending |= {asyncio.create_task(self._send(claim)) for claim in claims or ()}
                if claims is None and not sending:
                    return
                if sending:
                    finished, sending = await asyncio.wait(
                        sending, timeout=self._poll_interval, return_when=asyncio.FIRST_COMPLETED
                    )
                    await self._apply(endpoint_row_id, finished)
        finally:
            del self._under_way[endpoint_row_id]
            await _cancel(sending)

    async def _claim(self, endpoint_row_id: int, under_way: int) -> list[Claim] | None:
        """Claim due deliveries; return None when none is due, or the database cannot tell."""
        if self._stop.is_set():
            return None
        try:
            claims = await self._deliveries.claim(endpoint_row_id, under_way=under_way)
        except Exception as error:  # the database is away
            self._note_failure(error, step="claim")
            return None
        self._note_success(step="claim")
        return claims

    async def _send(self, claim: Claim) -> tuple[Claim, WebhookAnswer]:
        """Raises `LeaseLostException`."""
        headers = signed_headers(claim.message, claim.secrets)
        async with keep_alive(lambda: self._deliveries.renew(claim), seconds=self._deliveries.limits.lease):
            return claim, await self._client.post(claim.url, body=claim.message.body, headers=headers)

    async def _apply(self, endpoint_row_id: int, finished: Collection[Sending]) -> None:
        """Apply results. A trial that failed, and was not refused, is followed by a pause with nothing under way."""
        results = []
        for task in finished:
            error = task.exception()
            if error is None:
                self._note_success(step="send")
                results.append(task.result())
            elif isinstance(error, Exception):
                self._note_failure(error, step="send")
        try:
            await self._deliveries.apply(endpoint_row_id, results)
        except Exception as problem:  # the database is away
            self._note_failure(problem, step="apply")
            return
        self._note_success(step="apply")
        if any(claim.is_trial and not (answer.succeeded or answer.is_refusal) for claim, answer in results):
            await wait_for_event(self._stop, self._poll_interval)


async def _cancel(tasks: Collection[asyncio.Task[None]] | Collection[Sending]) -> None:
    pending = list(tasks)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
