"""A client of the service for other teams' code: `Client`, and `AsyncClient` for asyncio; see docs/client.md.

It needs Python 3.11, httpx and nothing else: depend on the package, or copy this folder.
"""

from .answers import (
    Account,
    AccountAction,
    ActionAccount,
    Attempt,
    Batch,
    BatchRow,
    Event,
    PlacedBatch,
    Problem,
    Session,
    StreamedEvent,
    Token,
    Verified,
    WebhookEvent,
)
from .clients import AsyncClient, Client
from .errors import (
    AuthorizationFailed,
    EventsMissed,
    ServiceError,
    ServiceUnreachable,
    WaitTimeout,
    WebhookRefused,
)
from .webhooks import verify_webhook

__all__ = [
    "Account",
    "AccountAction",
    "ActionAccount",
    "AsyncClient",
    "Attempt",
    "AuthorizationFailed",
    "Batch",
    "BatchRow",
    "Client",
    "Event",
    "EventsMissed",
    "PlacedBatch",
    "Problem",
    "ServiceError",
    "ServiceUnreachable",
    "Session",
    "StreamedEvent",
    "Token",
    "Verified",
    "WaitTimeout",
    "WebhookEvent",
    "WebhookRefused",
    "verify_webhook",
]
