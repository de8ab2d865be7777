"""Every error the service raises on purpose.

A class carries what never changes (``error_code``, HTTP ``status_code``, whether another attempt may help); an
instance takes domain arguments and writes its own sentence. ``app.api.errors`` turns any of them into the envelope.
Messages are shown to callers: they hold no secret and no internal detail.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

UNREACHABLE: Final = "unreachable"
"""`GoLoginAPIException.status` when there was no connection: nothing was asked, so nothing has changed."""


class FailureKind(StrEnum):
    """Whose failure it is when an authorization ends with it, which says whether another attempt may help."""

    ACCOUNT = "account"
    """The account's: a person must act; no retry."""
    APP = "app"
    """The OAuth app's: its settings must be mended; no retry, and after some in a row the app is paused."""
    PASSING = "passing"
    """Nobody's: it is tried again."""
    UNEXPECTED = "unexpected"
    """A defect of ours; no retry."""


class AppException(Exception):
    """Root of the service's own errors; its attributes are those of an unexpected one."""

    error_code: ClassVar[str] = "INTERNAL_ERROR"
    kind: ClassVar[FailureKind] = FailureKind.UNEXPECTED
    status_code: ClassVar[int] = 500
    retryable: bool = False
    """Whether the same request may succeed later without anybody changing anything."""

    def __init__(
        self, message: str = "An unexpected error occurred", *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.data: dict[str, Any] | None = None
        """What a program can use of it: the answer's `data`."""
        self.retry_after = retry_after
        """Seconds after which to try again, when that is known."""


class DomainException(AppException):
    """The request, the account or the app is the reason."""

    status_code = 400
    kind = FailureKind.ACCOUNT


class InfrastructureException(AppException):
    """Something the service depends on is the reason."""

    status_code = 502
    kind = FailureKind.PASSING
    retryable = True


# --- the request -----------------------------------------------------------------------------------------------


class InvalidRequestException(DomainException):
    error_code = "INVALID_REQUEST"
    status_code = 422


class InvalidCursorException(DomainException):
    error_code = "INVALID_CURSOR"
    status_code = 422

    def __init__(self) -> None:
        super().__init__("This cursor is damaged, or of a list with other filters; begin without one")


class UnknownEventIdException(DomainException):
    error_code = "UNKNOWN_EVENT_ID"
    status_code = 422

    def __init__(self) -> None:
        super().__init__(
            "This Last-Event-ID is none that the stream has sent, or the database was restored since; "
            "connect without one, and read GET /events for what came before"
        )


class TooManyStreamsException(DomainException):
    error_code = "TOO_MANY_STREAMS"
    status_code = 429
    retryable = True

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(f"{whose} has {limit} event streams open, which is the limit", retry_after=5.0)


class TooManyExportsException(DomainException):
    error_code = "TOO_MANY_EXPORTS"
    status_code = 429
    retryable = True

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(f"{whose} has {limit} exports under way, which is the limit", retry_after=30.0)


class RouteNotFoundException(DomainException):
    error_code = "NOT_FOUND"
    status_code = 404

    def __init__(self) -> None:
        super().__init__("No such address; openapi.json and the README list the routes")


class MethodNotAllowedException(DomainException):
    error_code = "METHOD_NOT_ALLOWED"
    status_code = 405

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"This address does not take {method}; allowed: {allowed}")


class UnsupportedMediaTypeException(DomainException):
    error_code = "UNSUPPORTED_MEDIA_TYPE"
    status_code = 415

    def __init__(self, allowed: str = "application/json") -> None:
        super().__init__(f"The body's Content-Type is not taken here; allowed: {allowed}")


class MalformedRequestException(DomainException):
    """No HTTP (RFC 9112)."""

    error_code = "MALFORMED_REQUEST"
    status_code = 400

    def __init__(self) -> None:
        super().__init__("The request is not valid HTTP")


class UriTooLongException(DomainException):
    error_code = "URI_TOO_LONG"
    status_code = 414

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request's address is longer than {limit_bytes // 1024} KiB")


class HeadersTooLargeException(DomainException):
    error_code = "HEADERS_TOO_LARGE"
    status_code = 431

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request's headers are larger than {limit_bytes // 1024} KiB; send less")


class RequestTimeoutException(DomainException):
    """Its client stopped sending it (RFC 9110, 15.5.9)."""

    error_code = "REQUEST_TIMEOUT"
    status_code = 408
    retryable = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request did not arrive within {seconds:g} seconds")


class CrossOriginException(DomainException):
    """A browser asks before a page of another origin calls (CORS)."""

    error_code = "CROSS_ORIGIN_REFUSED"
    status_code = 403

    def __init__(self) -> None:
        super().__init__("Pages of this origin may not send this method with these headers; see CORS_ORIGINS")


class BodyTooLargeException(DomainException):
    error_code = "BODY_TOO_LARGE"
    status_code = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than {limit_bytes // 1024} KiB; send less")


class AuthenticationException(DomainException):
    error_code = "UNAUTHORIZED"
    status_code = 401

    def __init__(self, reason: str = "Missing or unknown API key") -> None:
        super().__init__(f"{reason}: send a valid key in the X-API-Key header")


class PermissionDeniedException(DomainException):
    error_code = "FORBIDDEN"
    status_code = 403

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key lacks the scope '{scope}': ask an operator for a key that has it")


class OutOfReachException(DomainException):
    """The key is restricted, and what the request names, or concerns, lies outside."""

    error_code = "OUT_OF_REACH"
    status_code = 403

    def __init__(self, account_id: str | None = None, api_app: str | None = None) -> None:
        named = " in ".join(name for name in (account_id, api_app) if name)
        super().__init__(
            f"This API key is restricted, and not for {named or 'what concerns all accounts and apps'}"
        )


class KeyEscalationException(DomainException):
    error_code = "KEY_ESCALATION"
    status_code = 403

    def __init__(self, less: str) -> None:
        super().__init__(
            f"A key cannot be given more than the key that makes or rotates it has; ask for less {less}"
        )


class KeyNotFoundException(DomainException):
    error_code = "KEY_NOT_FOUND"
    status_code = 404

    def __init__(self, key_id: str) -> None:
        super().__init__(f"No API key '{key_id}'; GET /keys, or `keys list`, shows them")


class KeyNameTakenException(DomainException):
    """Also by a revoked key: sessions and events name their keys for good."""

    error_code = "KEY_NAME_TAKEN"
    status_code = 409

    def __init__(self, name: str) -> None:
        super().__init__(f"An API key named '{name}' exists already, or did; choose another name")


class KeyEndedException(DomainException):
    error_code = "KEY_ENDED"
    status_code = 409

    def __init__(self, name: str, status: str) -> None:
        super().__init__(f"The API key '{name}' is {status}; make a new one")


class RotationUnderWayException(DomainException):
    """Of an API key, or of a webhook's secret."""

    error_code = "ROTATION_UNDER_WAY"
    status_code = 409

    def __init__(self, ends_at: datetime) -> None:
        super().__init__(
            f"It was rotated already, and what that replaced works until {ends_at.isoformat()}: another rotation ends "
            'it at once. Wait, or rotate with "force": true (--force)'
        )


class AuthenticationLimitException(DomainException):
    """Too many requests without a valid key came from the address; one with a valid key is not refused."""

    error_code = "TOO_MANY_FAILED_AUTHENTICATIONS"
    status_code = 429
    retryable = True

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            "Too many requests without a valid API key came from this address; mend the key, then try again",
            retry_after=retry_after,
        )


class RateLimitException(DomainException):
    error_code = "RATE_LIMITED"
    status_code = 429
    retryable = True

    def __init__(self, limit: int, retry_after: float) -> None:
        message = f"More than {limit} requests a minute with this API key; slow down"
        super().__init__(message, retry_after=retry_after)


class UnknownApiAppException(DomainException):
    error_code = "UNKNOWN_API_APP"
    kind = FailureKind.APP
    status_code = 422

    def __init__(self, api_app: str, known: list[str]) -> None:
        super().__init__(
            f"Unknown api_app '{api_app}'; the configured ones are: {', '.join(known) or 'none'}"
        )


class SessionNotFoundException(DomainException):
    error_code = "SESSION_NOT_FOUND"
    status_code = 404

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"No authorization session '{session_id}'; check the id that POST /authorize returned"
        )


class SessionEndedException(DomainException):
    error_code = "SESSION_ENDED"
    status_code = 409

    def __init__(self, session_id: str, status: str) -> None:
        super().__init__(f"The authorization session {session_id} has ended as '{status}' already")


class SessionNotEndedException(DomainException):
    error_code = "SESSION_NOT_ENDED"
    status_code = 409

    def __init__(self, session_id: str, status: str) -> None:
        super().__init__(
            f"The authorization session {session_id} is '{status}'; only one that failed, timed out, was cancelled or "
            "needs attention can be tried again"
        )


class ScreenshotNotFoundException(DomainException):
    error_code = "SCREENSHOT_NOT_FOUND"
    status_code = 404

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"No screenshot of the authorization session {session_id}: it failed outside of the browser, "
            "the page did not answer, or its time is over; look at its evidence and attempt_list"
        )


class WebhookNotFoundException(DomainException):
    error_code = "WEBHOOK_NOT_FOUND"
    status_code = 404

    def __init__(self, endpoint_id: str) -> None:
        super().__init__(f"No webhook '{endpoint_id}' that this API key may see; GET /webhooks lists them")


class DeliveryNotFoundException(DomainException):
    error_code = "DELIVERY_NOT_FOUND"
    status_code = 404

    def __init__(self, endpoint_id: str, delivery_id: int) -> None:
        super().__init__(
            f"The webhook {endpoint_id} has no delivery {delivery_id}, or its time is over; "
            f"GET /webhooks/{endpoint_id}/deliveries lists them"
        )


class WebhookUrlRefusedException(DomainException):
    """An address that must not be spoken to, now or at a delivery."""

    error_code = "WEBHOOK_URL_REFUSED"
    status_code = 422

    def __init__(self, reason: str) -> None:
        super().__init__(f"The webhook's URL {reason}")


class TooManyWebhooksException(DomainException):
    error_code = "TOO_MANY_WEBHOOKS"
    status_code = 409

    def __init__(self, limit: int) -> None:
        super().__init__(f"There are {limit} webhooks already; delete one, or raise WEBHOOK_MAX_ENDPOINTS")


class AttentionNotNeededException(DomainException):
    error_code = "ATTENTION_NOT_NEEDED"
    status_code = 409

    def __init__(self, session_id: str, status: str) -> None:
        super().__init__(
            f"The authorization session {session_id} is '{status}'; only one that needs attention can be resumed, "
            f"others start again with POST /authorize/{session_id}/retry"
        )


class TransitionRefusedException(DomainException):
    """The table of transitions does not know this one."""

    error_code = "TRANSITION_REFUSED"
    status_code = 409

    def __init__(self, old: str, new: str) -> None:
        super().__init__(f"A session cannot go from '{old}' to '{new}'")


class BatchNotFoundException(DomainException):
    error_code = "BATCH_NOT_FOUND"
    status_code = 404

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"No batch '{batch_id}'; check the id that POST /authorize/batch returned")


class BatchEmptyException(DomainException):
    error_code = "BATCH_EMPTY"
    status_code = 422

    def __init__(self, first_reason: str) -> None:
        super().__init__(f"No row of the batch can become a session; the first: {first_reason}")


class BatchEndedException(DomainException):
    error_code = "BATCH_ENDED"
    status_code = 409

    def __init__(self, batch_id: str, status: str) -> None:
        super().__init__(f"The batch {batch_id} has ended as '{status}' already")


class BatchEndingException(DomainException):
    """Of a session: whatever of its batch waits is cancelled."""

    error_code = "BATCH_ENDING"
    status_code = 409
    retryable = True

    def __init__(self, batch_id: str, status: str) -> None:
        super().__init__(
            f"Its batch {batch_id} is {status}, and some of its sessions still run; try again when they have ended"
        )


class NothingToRetryException(DomainException):
    error_code = "NOTHING_TO_RETRY"
    status_code = 409

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"No session of the batch {batch_id} can be tried again; those that need attention only when asked for, "
            "and none whose account has another open one"
        )


class IdempotencyConflictException(DomainException):
    error_code = "IDEMPOTENCY_CONFLICT"
    status_code = 409

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key was sent before with another body; use a new key for a new request"
        )


class AppPausedException(DomainException):
    error_code = "APP_PAUSED"
    status_code = 409
    kind = FailureKind.APP

    def __init__(self, api_app: str, reason: str) -> None:
        super().__init__(
            f"The OAuth app {api_app} is paused ({reason}); mend it, then POST /apps/{api_app}/resume"
        )


class AppLimitedException(DomainException):
    """The provider limits the app's rate; nothing of it is called before that is over."""

    error_code = "APP_LIMITED"
    kind = FailureKind.PASSING
    status_code = 429
    retryable = True

    def __init__(self, api_app: str, retry_after: float) -> None:
        message = f"The provider limits the rate of {api_app} for {math.ceil(retry_after)} seconds more"
        super().__init__(message, retry_after=retry_after)


class TooManyWaitingException(DomainException):
    error_code = "TOO_MANY_WAITING"
    status_code = 429
    retryable = True

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__(
            f"{limit} authorizations are waiting already; try again later", retry_after=retry_after
        )


class ProfileNotFoundException(DomainException):
    error_code = "PROFILE_NOT_FOUND"
    status_code = 404

    def __init__(self, account_id: str) -> None:
        super().__init__(
            f"No GoLogin profile found for account: {account_id}. Name or link one (see `profiles`), then sync"
        )


class UnknownProfileException(DomainException):
    error_code = "UNKNOWN_PROFILE"
    status_code = 404

    def __init__(self, profile_id: str) -> None:
        super().__init__(f"No GoLogin profile '{profile_id}' is known; POST /profiles/sync if it is new")


class ProfileInUseException(DomainException):
    """The profile is running already, here or on another machine; one profile runs once at a time."""

    error_code = "PROFILE_IN_USE"
    status_code = 409
    retryable = True

    def __init__(self, profile_id: str) -> None:
        super().__init__(f"GoLogin profile {profile_id} is already running; try again when it has stopped")


class ProfileConflictException(DomainException):
    """More than one profile would belong to one account in one app."""

    error_code = "PROFILE_CONFLICT"
    status_code = 409

    def __init__(self, account_id: str, profile_ids: Sequence[str]) -> None:
        super().__init__(
            f"More than one profile belongs to @{account_id}: {', '.join(profile_ids)}; "
            "link one of them, or unlink the other"
        )


class SyncNotFoundException(DomainException):
    error_code = "SYNC_NOT_FOUND"
    status_code = 404

    def __init__(self, sync_id: str) -> None:
        super().__init__(f"No profile sync '{sync_id}'; check the id that POST /profiles/sync returned")


class SyncRefusedException(DomainException):
    """A pass that would mark most of the fleet as gone: a wrong token is likelier than that."""

    error_code = "SYNC_MASS_REMOVAL"
    status_code = 409

    def __init__(self, gone: int, active: int) -> None:
        super().__init__(
            f"GoLogin lists {gone} of the {active} active profiles no more; nothing was marked as gone. Check "
            'GOLOGIN_API_TOKEN; if it is right, POST /profiles/sync {"allow_mass_removal": true}'
        )


class ConcurrentProfileLimitException(DomainException):
    error_code = "CONCURRENT_LIMIT"
    status_code = 429
    retryable = True

    def __init__(self, limit: int) -> None:
        super().__init__(f"Maximum concurrent profiles ({limit}) already running")


# --- the account, as the consent page shows it -----------------------------------------------------------------


class AccountMismatchException(DomainException):
    """Another account than the asked one is signed in; nothing was authorised or the new token was revoked."""

    error_code = "ACCOUNT_MISMATCH"
    status_code = 409

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(
            f"The profile is signed in as @{found}, not as @{expected}; sign in the right account"
        )


class NeedsAttentionException(DomainException):
    """The page asks for a person; the session ends as ``needs_attention``."""

    status_code = 409


class LoginRequiredException(NeedsAttentionException):
    error_code = "LOGIN_REQUIRED"

    def __init__(self, account_id: str) -> None:
        super().__init__(f"@{account_id} is signed out in its profile; a person must sign in there")


class AccountLockedException(NeedsAttentionException):
    error_code = "ACCOUNT_LOCKED"

    def __init__(self, account_id: str) -> None:
        super().__init__(f"The provider has locked @{account_id}; a person must unlock it in its profile")


class HumanCheckException(NeedsAttentionException):
    error_code = "HUMAN_CHECK_REQUIRED"

    def __init__(self, account_id: str) -> None:
        super().__init__(
            f"The provider asks @{account_id} for a human check; a person must pass it in the profile"
        )


class PersonNotSeenException(NeedsAttentionException):
    """A person was asked to act in the profile's window, and nobody did in time."""

    error_code = "PERSON_NOT_SEEN"

    def __init__(self, account_id: str, seconds: float) -> None:
        super().__init__(
            f"Nobody finished the consent of @{account_id} in its profile's window within {seconds:g} seconds; "
            "resume the session when a person is there"
        )


class ProfileQuarantinedException(NeedsAttentionException):
    """Its browser could not be stopped; starting it again could run it twice."""

    error_code = "PROFILE_QUARANTINED"

    def __init__(self, profile_id: str) -> None:
        super().__init__(
            f"GoLogin profile {profile_id} is quarantined because it could not be stopped; "
            f"close its browser, then POST /profiles/{profile_id}/release"
        )


class ConsentDeclinedException(DomainException):
    error_code = "CONSENT_DECLINED"
    status_code = 409

    def __init__(self, account_id: str) -> None:
        super().__init__(f"The consent for @{account_id} was declined on the provider's page")


class ConsentPageException(DomainException):
    """The provider shows an error instead of the consent: usually the app or its redirect URI is misconfigured."""

    error_code = "CONSENT_PAGE_ERROR"
    kind = FailureKind.APP
    status_code = 502

    def __init__(self, detail: str) -> None:
        super().__init__(f"The provider's consent page shows an error: {detail}")


class ConsentButtonNotFoundException(DomainException):
    error_code = "CONSENT_BUTTON_NOT_FOUND"
    kind = FailureKind.PASSING
    status_code = 502
    retryable = True

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"No consent button could be pressed within {seconds:g} seconds; the page is unknown or slow"
        )


class ProviderRulesException(DomainException):
    """What the providers file says of the consent page cannot be used."""

    error_code = "PROVIDER_RULES_INVALID"
    kind = FailureKind.APP
    status_code = 502

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The rules of the provider's consent page cannot be used: {problem}; mend PROVIDERS_FILE"
        )


class UnknownPageException(DomainException):
    """The page shows nothing that the provider's rules know: nothing was pressed."""

    error_code = "UNKNOWN_PAGE"
    kind = FailureKind.PASSING
    status_code = 502
    retryable = True

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The provider showed a page that is not known for {seconds:g} seconds; look at the session's evidence"
        )


class StateMismatchException(DomainException):
    """The callback's ``state`` is not the one sent (RFC 6749, 10.12): the callback is not ours and is refused."""

    error_code = "STATE_MISMATCH"
    kind = FailureKind.PASSING
    status_code = 409

    def __init__(self) -> None:
        super().__init__(
            "The provider's callback carries another state than this authorization sent; it was refused"
        )


class TokenNotFoundException(DomainException):
    error_code = "TOKEN_NOT_FOUND"
    status_code = 404

    def __init__(self, account_id: str, api_app: str) -> None:
        super().__init__(f"No token of @{account_id} in {api_app}; POST /authorize makes one")


class TokenRevokedException(DomainException):
    error_code = "TOKEN_REVOKED"
    status_code = 409

    def __init__(self, account_id: str) -> None:
        super().__init__(f"The token of @{account_id} is being revoked; POST /authorize makes a new one")


class ReauthorizationRequiredException(DomainException):
    error_code = "REAUTHORIZATION_REQUIRED"
    status_code = 409

    def __init__(self, account_id: str, session_id: str | None) -> None:
        running = f"session {session_id} is at it" if session_id else "POST /authorize starts that"
        super().__init__(f"@{account_id} must be authorised anew before it has a token; {running}")
        self.data = {"session_id": session_id}


class TokenExpiredException(DomainException):
    error_code = "TOKEN_EXPIRED"
    status_code = 409

    def __init__(self, account_id: str, reason: str = "", *, retry_after: float | None = None) -> None:
        why = f"could not be refreshed now ({reason}); try again" if reason else "authorize the account again"
        super().__init__(f"The token of @{account_id} is expired; {why}", retry_after=retry_after)


class TokenNotRefreshableException(DomainException):
    """An OAuth 1.0a token has neither an end nor a refresh token."""

    error_code = "TOKEN_NOT_REFRESHABLE"
    status_code = 409

    def __init__(self, account_id: str, api_app: str) -> None:
        super().__init__(
            f"The token of @{account_id} in {api_app} cannot be refreshed and need not be: it is OAuth 1.0a's and does "
            "not expire"
        )


# --- what the service depends on -------------------------------------------------------------------------------


class AuthorizationTimeoutException(InfrastructureException):
    error_code = "AUTH_TIMEOUT"
    status_code = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Authorization timeout after {seconds:g} seconds")


class GoLoginAPIException(InfrastructureException):
    """The profile browser's API refused a call or did not answer."""

    error_code = "GOLOGIN_API_ERROR"
    product: ClassVar[str] = "GoLogin"

    def __init__(self, status: int | str, message: str, *, retryable: bool = True) -> None:
        super().__init__(f"{self.product} API error ({status}): {message}")
        self.status = status
        """HTTP status, or a word such as ``timeout`` when there was no answer."""
        self.retryable = retryable


class AdsPowerAPIException(GoLoginAPIException):
    product = "AdsPower"


class GoLoginBreakerOpenException(InfrastructureException):
    """GoLogin limited the rate once: one more call could cost the API token for good."""

    error_code = "GOLOGIN_BREAKER_OPEN"
    status_code = 503
    retryable = False

    def __init__(self) -> None:
        super().__init__(
            "Calls to GoLogin's cloud API are stopped because it limited their rate; check that the API token "
            "still works, then POST /gologin/breaker/close"
        )


class SeleniumConnectionException(InfrastructureException):
    error_code = "BROWSER_CONNECTION_FAILED"

    def __init__(self, port: int | str) -> None:
        super().__init__(f"Cannot connect to browser on port {port}")


class BrowserCrashedException(InfrastructureException):
    error_code = "BROWSER_CRASHED"

    def __init__(self) -> None:
        super().__init__("The profile's browser or its driver died during the authorization")


class ChromeDriverException(InfrastructureException):
    """No chromedriver that fits the profile's browser could be found or started."""

    error_code = "CHROMEDRIVER_UNAVAILABLE"
    status_code = 503
    retryable = False


class TwitterAPIException(InfrastructureException):
    """The OAuth provider's API refused a call or did not answer."""

    error_code = "TWITTER_API_ERROR"

    def __init__(
        self,
        status: int | str,
        message: str,
        *,
        retryable: bool = True,
        retry_after: float | None = None,
        provider: str = "Twitter",
        may_have_acted: bool = False,
    ) -> None:
        super().__init__(f"{provider} API error ({status}): {message}", retry_after=retry_after)
        self.may_have_acted = may_have_acted
        """The request may have reached the provider and done its work, and the answer is lost."""
        self.status = status
        """HTTP status, or a word such as ``timeout`` when there was no answer."""
        self.retryable = retryable


class InvalidGrantException(TwitterAPIException):
    """The provider refused the authorization code or the refresh token itself (RFC 6749, 5.2)."""

    error_code = "INVALID_GRANT"

    def __init__(self, status: int | str, message: str, *, provider: str = "Twitter") -> None:
        super().__init__(status, message, retryable=False, provider=provider)


class InvalidClientException(TwitterAPIException):
    """The provider refused the app's own authentication: the app is misconfigured, not the account."""

    error_code = "INVALID_CLIENT"
    kind = FailureKind.APP

    def __init__(self, status: int | str, message: str, *, provider: str = "Twitter") -> None:
        super().__init__(status, message, retryable=False, provider=provider)


class CreditsDepletedException(TwitterAPIException):
    """The app may make no API calls for now; its accounts and their tokens may be fine."""

    error_code = "CREDITS_DEPLETED"
    kind = FailureKind.APP

    def __init__(self, status: int | str, message: str, *, provider: str = "Twitter") -> None:
        what_to_do = f"{message}; the app has no API credits left, buy some"
        super().__init__(status, what_to_do, retryable=False, provider=provider)


class DecryptionException(InfrastructureException):
    """A stored value opens with none of the configured keys, or belongs to another row."""

    error_code = "DECRYPTION_FAILED"
    kind = FailureKind.UNEXPECTED
    status_code = 500
    retryable = False

    def __init__(self) -> None:
        super().__init__("A stored secret cannot be opened with the configured encryption keys")


class DatabaseUnavailableException(InfrastructureException):
    error_code = "DATABASE_UNAVAILABLE"
    status_code = 503

    def __init__(self, reason: str) -> None:
        super().__init__(f"The database of DATABASE_URL cannot be used: {reason}", retry_after=5.0)


class SchemaOutOfDateException(InfrastructureException):
    error_code = "SCHEMA_OUT_OF_DATE"
    status_code = 503
    retryable = False

    def __init__(self, current: str | None, wanted: str | None) -> None:
        message = (
            f"The database schema is at '{current}', the code wants '{wanted}': run `python -m app migrate`"
        )
        super().__init__(message)


class WorkerDiedException(InfrastructureException):
    """Whoever started the process starts it anew."""

    error_code = "WORKER_DIED"
    status_code = 503

    def __init__(self) -> None:
        super().__init__("A worker has ended by an error; its log line is worker.died")


class LeaseLostException(InfrastructureException):
    """Another process may have taken over the row: whatever was done here is dropped."""

    error_code = "LEASE_LOST"
    status_code = 503

    def __init__(self) -> None:
        super().__init__("The lease on the work was lost; another process goes on with it")


class ServiceStoppingException(InfrastructureException):
    """The process is shutting down; the work goes on after the restart."""

    error_code = "SERVICE_STOPPING"
    status_code = 503

    def __init__(self) -> None:
        super().__init__("The service is stopping; the session goes on after its restart")
