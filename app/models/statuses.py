"""The states that rows go through."""

from enum import StrEnum
from typing import Final


class ActorKind(StrEnum):
    """Kind of an actor; a name alone may be anybody's."""

    KEY = "key"
    BOOTSTRAP = "bootstrap"
    CLI = "cli"
    SERVICE = "service"
    SELF_HEALING = "self-healing"
    OIDC = "oidc"
    """A person, who has signed in to the operators' page at an OpenID Connect provider."""


class SessionStatus(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    NEEDS_ATTENTION = "needs_attention"

    @property
    def is_final(self) -> bool:
        return self not in OPEN_STATUSES


OPEN_STATUSES: Final = (SessionStatus.PENDING, SessionStatus.IN_PROGRESS)


class SessionStage(StrEnum):
    """Stages of a session in progress, in their order."""

    WAITING_FOR_SLOT = "waiting_for_slot"
    PROFILE_STARTING = "profile_starting"
    BROWSER_ATTACHED = "browser_attached"
    CONSENT_SHOWN = "consent_shown"
    WAITING_FOR_PERSON = "waiting_for_person"
    """This stage may also come before the consent is shown, and more than once."""
    CONSENT_GIVEN = "consent_given"
    CODE_RECEIVED = "code_received"
    TOKENS_STORED = "tokens_stored"


class ConsentMode(StrEnum):
    AUTOMATIC = "automatic"
    """The service presses Authorize."""
    ATTENDED = "attended"
    """A person presses it in the profile's window; the service does the rest."""


class BatchStatus(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    """Too many of its sessions failed, or its app was paused: what had not started was cancelled."""
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    """Every session has ended, however."""


class CredentialStatus(StrEnum):
    ACTIVE = "active"
    REAUTHORIZATION_REQUIRED = "reauthorization_required"
    """The chain of refresh tokens is broken: only a new authorization brings tokens again."""
    REVOKING = "revoking"
    """The tokens are deleted once the provider has revoked them."""


class SyncStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class WebhookStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    """Stopped by a caller, by its own answer (410), after hours of failures, or because no key opens its secret."""
    DELETED = "deleted"
    """Nobody sees it any more; the row goes once its deliveries are deleted."""


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    PARKED = "parked"
    """The delivery failed for a whole day, or cannot be sent: only a replay tries it again."""
