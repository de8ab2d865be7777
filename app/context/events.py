"""Events for others: streams, exports and webhooks."""

from dataclasses import dataclass
from datetime import timedelta

import httpx

from app.clients.webhooks import WebhookClient
from app.config import Environment, Settings
from app.database import Database
from app.services.events.exports import EventExports, ExportLimits
from app.services.events.streams import EventStreams, StreamLimits
from app.services.events.tail import EventTail
from app.services.webhooks.deliveries import DeliveryLimits, WebhookDeliveries
from app.services.webhooks.service import WebhookService
from app.services.webhooks.vault import WebhookVault


@dataclass(frozen=True)
class Events:
    streams: EventStreams
    exports: EventExports
    webhooks: WebhookService
    webhook_client: WebhookClient
    deliveries: WebhookDeliveries


def build_events(
    settings: Settings, database: Database, transport: httpx.AsyncBaseTransport, owner: str
) -> Events:
    client = WebhookClient(
        transport=transport,
        timeout=settings.webhook_timeout,
        allow_private=settings.webhook_allow_private_addresses,
        allow_http=settings.environment is Environment.DEVELOPMENT,
    )
    vault = WebhookVault(key_ring=settings.key_ring)
    return Events(
        streams=EventStreams(
            database=database,
            tail=EventTail(database=database),
            limits=StreamLimits(
                readers=settings.event_stream_readers,
                readers_per_key=settings.event_stream_readers_per_key,
                lifetime=settings.event_stream_lifetime,
                heartbeat=settings.event_stream_heartbeat,
            ),
        ),
        exports=EventExports(
            database=database,
            limits=ExportLimits(
                exports=settings.event_exports,
                exports_per_key=settings.event_exports_per_key,
                lifetime=settings.event_export_lifetime,
            ),
        ),
        webhooks=WebhookService(
            database=database, client=client, vault=vault, max_endpoints=settings.webhook_max_endpoints
        ),
        webhook_client=client,
        deliveries=WebhookDeliveries(
            database=database,
            vault=vault,
            limits=DeliveryLimits(
                retry_waits=settings.webhook_retry_waits,
                pause_after=timedelta(hours=settings.webhook_pause_after_hours),
                concurrency=settings.webhook_concurrency,
                lease=settings.lease_seconds,
            ),
            owner=owner,
        ),
    )
