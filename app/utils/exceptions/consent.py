"""The account, as the consent page shows it."""

from typing import Final

from app.utils.exceptions.base import DomainException, FailureKind
from app.utils.exceptions.codes import ErrorCode

_LASTING_NETWORK_ERRORS: Final = (
    "ERR_CERT_",
    "ERR_SSL_",
    "ERR_BAD_SSL_CLIENT_AUTH_CERT",
    "ERR_UNSAFE_PORT",
    "ERR_UNKNOWN_URL_SCHEME",
    "ERR_INVALID_URL",
    "ERR_BLOCKED_BY_",
    "ERR_NO_SUPPORTED_PROXIES",
    "ERR_PROXY_AUTH_",
    "ERR_PROXY_CERTIFICATE_INVALID",
    "ERR_INVALID_AUTH_CREDENTIALS",
)
"""Beginnings of Chromium's network errors that no second attempt mends (net/base/net_error_list.h)."""


class AccountMismatchException(DomainException):
    """Another account than the asked one is signed in; nothing was authorised or the new token was revoked."""

    error_code = ErrorCode.ACCOUNT_MISMATCH
    status_code = 409

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(
            f"The profile is signed in as @{actual}, not as @{expected}; sign in the right account"
        )


class NeedsAttentionException(DomainException):
    """The page asks for a person; the session ends as ``needs_attention``."""

    status_code = 409


class LoginRequiredException(NeedsAttentionException):
    error_code = ErrorCode.LOGIN_REQUIRED

    def __init__(self, account_id: str) -> None:
        super().__init__(f"@{account_id} is signed out in its profile; a person must sign in there")


class AccountLockedException(NeedsAttentionException):
    error_code = ErrorCode.ACCOUNT_LOCKED

    def __init__(self, account_id: str) -> None:
        super().__init__(f"The provider has locked @{account_id}; a person must unlock it in its profile")


class HumanCheckException(NeedsAttentionException):
    error_code = ErrorCode.HUMAN_CHECK_REQUIRED

    def __init__(self, account_id: str) -> None:
        super().__init__(
            f"The provider asks @{account_id} for a human check; a person must pass it in the profile"
        )


class NotConsentPageException(NeedsAttentionException):
    """The browser shows another page than the provider's consent: nothing was pressed there."""

    error_code = ErrorCode.NOT_CONSENT_PAGE

    def __init__(self, account_id: str, page: str, *, is_of_provider: bool, hint: str = "") -> None:
        kind = "another page of the provider" if is_of_provider else "a page that is not the provider's"
        super().__init__(
            f"The profile of @{account_id} shows {kind}, {page}, where its consent page was expected; "
            + (
                f"nothing was pressed: {hint}"
                if hint
                else "nothing was pressed, a person must look at it there"
            )
        )


class PageDialogException(NeedsAttentionException):
    """The page opened `alert()`, `confirm()` or `prompt()`, which only a person can answer."""

    error_code = ErrorCode.PAGE_DIALOG

    def __init__(self, account_id: str, text: str) -> None:
        super().__init__(
            f'The page of @{account_id} opened a dialog, "{text}"; it was dismissed, a person must give this consent'
        )


class PersonNotSeenException(NeedsAttentionException):
    """A person was asked to act in the profile's window, and nobody did in time."""

    error_code = ErrorCode.PERSON_NOT_SEEN

    def __init__(self, account_id: str, seconds: float) -> None:
        super().__init__(
            f"Nobody finished the consent of @{account_id} in its profile's window within {seconds:g} seconds; "
            "resume the session when a person is there"
        )


class ProfileQuarantinedException(NeedsAttentionException):
    """The profile's browser could not be stopped; starting it again could run it twice."""

    error_code = ErrorCode.PROFILE_QUARANTINED

    def __init__(self, profile_id: str) -> None:
        super().__init__(
            f"GoLogin profile {profile_id} is quarantined because it could not be stopped; "
            f"close its browser, then POST /profiles/{profile_id}/release"
        )


class ConsentDeclinedException(DomainException):
    error_code = ErrorCode.CONSENT_DECLINED
    status_code = 409

    def __init__(self, account_id: str) -> None:
        super().__init__(f"The consent for @{account_id} was declined on the provider's page")


class ConsentPageException(DomainException):
    """The provider shows an error instead of the consent: usually the app or its redirect URI is misconfigured."""

    error_code = ErrorCode.CONSENT_PAGE_ERROR
    kind = FailureKind.APP
    status_code = 502

    def __init__(self, detail: str) -> None:
        super().__init__(f"The provider's consent page shows an error: {detail}")


class ConsentUnavailableException(DomainException):
    """The provider's authorization endpoint says that it cannot answer now (RFC 6749, 4.1.2.1)."""

    error_code = ErrorCode.CONSENT_UNAVAILABLE
    kind = FailureKind.TRANSIENT
    status_code = 502
    retryable = True

    def __init__(self, error: str) -> None:
        super().__init__(f"The provider ended the consent with {error}; it is tried again")


class ConsentButtonNotFoundException(DomainException):
    error_code = ErrorCode.CONSENT_BUTTON_NOT_FOUND
    kind = FailureKind.TRANSIENT
    status_code = 502
    retryable = True

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(
            f"No consent button could be pressed within {seconds:g} seconds: "
            + (reason or "the page is unknown or slow")
        )


class ProviderRulesException(DomainException):
    """A rule of the providers file for the consent page cannot be used."""

    error_code = ErrorCode.PROVIDER_RULES_INVALID
    kind = FailureKind.APP
    status_code = 502

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The rules of the provider's consent page cannot be used: {problem}; mend PROVIDERS_FILE"
        )


class UnknownPageException(DomainException):
    """The page shows nothing that the provider's rules know: nothing was pressed."""

    error_code = ErrorCode.UNKNOWN_PAGE
    kind = FailureKind.TRANSIENT
    status_code = 502
    retryable = True

    def __init__(self, seconds: float, hint: str = "") -> None:
        super().__init__(
            f"The provider showed a page that is not known for {seconds:g} seconds; "
            + (hint or "look at the session's evidence")
        )


class FragmentResponseException(ConsentPageException):
    """The provider answers in the callback's fragment, which no server would see."""

    def __init__(self) -> None:
        super().__init__(
            "it answers in the fragment of the redirect URI (response_mode=fragment); "
            "set the app to answer in the query or by form_post"
        )


class StateMismatchException(DomainException):
    """The callback's ``state`` is not the one sent (RFC 6749, 10.12): the callback is not ours and is refused."""

    error_code = ErrorCode.STATE_MISMATCH
    kind = FailureKind.TRANSIENT
    status_code = 409
    default_message = (
        "The provider's callback carries another state than this authorization sent; it was refused"
    )


class IssuerMismatchException(DomainException):
    """The callback's ``iss`` is missing or another provider's (RFC 9207, 2.4): it is refused.

    Its `state` was ours, so that a wrong `issuer` in the providers file is the usual reason.
    """

    error_code = ErrorCode.ISSUER_MISMATCH
    kind = FailureKind.APP
    status_code = 409

    def __init__(self, issuer: str) -> None:
        super().__init__(
            f"The provider's callback does not name {issuer} as its issuer; it was refused. "
            "Check the provider's issuer in PROVIDERS_FILE"
        )


class ProfileNetworkException(DomainException):
    """The profile's browser cannot reach the provider.

    `code`: Chromium's, such as ``ERR_PROXY_CONNECTION_FAILED``. A certificate that is refused stays so.
    """

    error_code = ErrorCode.PROFILE_NETWORK_ERROR
    status_code = 502
    kind = FailureKind.TRANSIENT
    retryable = True

    def __init__(self, code: str) -> None:
        super().__init__(
            f"The profile's browser could not reach the provider ({code}); usually the profile's proxy is the cause"
        )
        if code.startswith(_LASTING_NETWORK_ERRORS):
            self.kind = FailureKind.ACCOUNT
            self.retryable = False
