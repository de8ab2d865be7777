"""Errors that calls raise."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .answers import Batch, Session


class ServiceError(Exception):
    """The service refused or failed, or could not be asked; the root of all errors of this client.

    Attributes: `code` (for programs; docs/errors.md lists them), `message`, `status` (of HTTP; None: there was no
    answer), `request_id` (for the service's operators), `problems` (of INVALID_REQUEST: `field`, `problem`, `allowed`
    each), `data` (what else a program can use), `retry_after` (seconds, where the service says it).
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        data: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.code, self.message, self.status, self.request_id = code, message, status, request_id
        self.data: Mapping[str, Any] = data or {}
        self.problems: list[dict[str, str | None]] = self.data.get("problems") or []
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" (request {self.request_id})" if self.request_id else "")


class ServiceUnreachable(ServiceError):
    """No answer until the deadline."""


class AuthorizationFailed(ServiceError):
    """`session` has ended without tokens."""

    def __init__(self, session: Session) -> None:
        message = session.error or f"The authorization of {session.account_id} ended as {session.status}"
        super().__init__(session.error_code or session.status.upper(), message, request_id=session.request_id)
        self.session = session


class WaitTimeout(ServiceError):
    """`seen`, the session or the batch as it was seen last, has not ended; it goes on."""

    def __init__(self, seen: Session | Batch) -> None:
        super().__init__("WAIT_TIMEOUT", f"Still {seen.status} when the time to wait was over")
        self.seen = seen


class EventsMissed(ServiceError):
    """Events after `last_event_id` may have been deleted unseen; the oldest one left is of `oldest_kept`."""

    def __init__(self, last_event_id: str, oldest_kept: datetime | None) -> None:
        super().__init__("EVENTS_MISSED", "The last event is older than the service keeps them")
        self.last_event_id, self.oldest_kept = last_event_id, oldest_kept


class WebhookRefused(ServiceError):
    """The request is no delivery of the service, or not a fresh one."""

    def __init__(self, message: str) -> None:
        super().__init__("WEBHOOK_REFUSED", message)
