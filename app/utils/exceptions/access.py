"""API keys and sign-ins: who may not do it, or not so often."""

from datetime import datetime

from app.utils.exceptions.base import DomainException, InfrastructureException
from app.utils.exceptions.codes import ErrorCode


class AuthenticationException(DomainException):
    error_code = ErrorCode.UNAUTHORIZED
    status_code = 401

    def __init__(self, reason: str = "Missing or unknown API key", *, key_name: str | None = None) -> None:
        super().__init__(f"{reason}: send a valid key in the X-API-Key header, or as Authorization: Bearer")
        self.reason = reason
        self.key_name = key_name
        """Name of a key that was sent whole and has ended."""


class SignInRequiredException(AuthenticationException):
    """The browser has no sign-in to the operators' page, or it has ended."""

    error_code = ErrorCode.SIGN_IN_REQUIRED

    def __init__(self, reason: str = "You are not signed in", *, key_name: str | None = None) -> None:
        super().__init__(reason, key_name=key_name)
        self.message = f"{reason}: sign in with an API key"


class TicketSpentException(AuthenticationException):
    """A one-time link to the operators' page that was used, has expired, or never existed."""

    error_code = ErrorCode.TICKET_SPENT

    def __init__(self) -> None:
        super().__init__("This link was used already, or has expired")
        self.message = f"{self.reason}: create another with `ui-link`, or sign in with an API key"


class SingleSignOnRefusedException(AuthenticationException):
    """A sign-in by OpenID Connect that did not begin in this browser, or that the provider or its ID token refuses."""

    error_code = ErrorCode.SSO_REFUSED

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.message = f"{reason}. Begin again, or sign in with an API key."


class SingleSignOnUnavailableException(InfrastructureException):
    """The OpenID Connect provider does not answer, or not as it must."""

    error_code = ErrorCode.SSO_UNAVAILABLE

    def __init__(self, problem: str) -> None:
        super().__init__(f"The provider of the sign-in cannot be used: {problem}. Sign in with an API key.")
        self.problem = problem


class NoRightsException(DomainException):
    """The person is known to the provider, and none of the person's claim values has rights here."""

    error_code = ErrorCode.SSO_NO_RIGHTS
    status_code = 403

    def __init__(self, claim: str) -> None:
        super().__init__(
            f"You are signed in at the provider, but no value of the claim '{claim}' in your ID token has rights "
            "on this page. Ask an operator for a group or role of OIDC_RIGHTS."
        )


class FormRefusedException(DomainException):
    """A form of the operators' page that another page, or a page of another sign-in, has sent."""

    error_code = ErrorCode.FORM_REFUSED
    status_code = 403
    default_message = (
        "The request does not come from a page of this sign-in, so nothing was done; load the page again, "
        "and repeat the action there"
    )


class PermissionDeniedException(DomainException):
    error_code = ErrorCode.FORBIDDEN
    status_code = 403

    def __init__(self, scope: str) -> None:
        super().__init__(f"This API key lacks the scope '{scope}': ask an operator for a key that has it")
        self.scope = str(scope)


class OutOfReachException(DomainException):
    """The key is restricted, and what the request names, or concerns, lies outside."""

    error_code = ErrorCode.OUT_OF_REACH
    status_code = 403

    def __init__(self, account_id: str | None = None, api_app: str | None = None) -> None:
        named = " in ".join(name for name in (account_id, api_app) if name)
        super().__init__(
            f"This API key is restricted, and not for {named or 'what concerns all accounts and apps'}"
        )


class KeyEscalationException(DomainException):
    error_code = ErrorCode.KEY_ESCALATION
    status_code = 403

    def __init__(self, less: str) -> None:
        super().__init__(
            f"A key cannot be given more than the key that makes or rotates it has; ask for less {less}"
        )


class KeyNotFoundException(DomainException):
    error_code = ErrorCode.KEY_NOT_FOUND
    status_code = 404

    def __init__(self, key_id: str) -> None:
        super().__init__(f"No API key '{key_id}'; GET /keys, or `keys list`, shows them")


class KeyNameTakenException(DomainException):
    """The name is taken, also by a revoked key: sessions and events name their keys for good."""

    error_code = ErrorCode.KEY_NAME_TAKEN
    status_code = 409

    def __init__(self, name: str) -> None:
        super().__init__(f"An API key named '{name}' exists already, or did; choose another name")


class KeyEndedException(DomainException):
    error_code = ErrorCode.KEY_ENDED
    status_code = 409

    def __init__(self, name: str, status: str) -> None:
        super().__init__(f"The API key '{name}' is {status}; make a new one")


class RotationUnderWayException(DomainException):
    """The last rotation of an API key or a webhook's secret has not ended."""

    error_code = ErrorCode.ROTATION_UNDER_WAY
    status_code = 409

    def __init__(self, ends_at: datetime) -> None:
        super().__init__(
            f"It was rotated already, and what that replaced works until {ends_at.isoformat()}: another rotation ends "
            'it at once. Wait, or rotate with "force": true (--force)'
        )


class AuthenticationLimitException(DomainException):
    """Too many requests without a valid key came from the address; one with a valid key is not refused."""

    error_code = ErrorCode.TOO_MANY_FAILED_AUTHENTICATIONS
    status_code = 429
    retryable = True

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            "Too many requests without a valid API key came from this address; mend the key, then try again",
            retry_after=retry_after,
        )


class RateLimitException(DomainException):
    error_code = ErrorCode.RATE_LIMITED
    status_code = 429
    retryable = True

    def __init__(self, limit: int, retry_after: float) -> None:
        message = f"More than {limit} requests a minute with this API key; slow down"
        super().__init__(message, retry_after=retry_after)
