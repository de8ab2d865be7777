"""Errors of the systems that the service depends on."""

from collections.abc import Mapping
from typing import ClassVar, Final

from app.utils.exceptions.base import FailureKind, InfrastructureException
from app.utils.exceptions.codes import ErrorCode
from app.utils.exceptions.consent import AccountLockedException
from app.utils.waits import CallLimit

UNREACHABLE: Final = "unreachable"
"""`GoLoginAPIException.status` when there was no connection: nothing was asked, so nothing has changed."""


class AuthorizationTimeoutException(InfrastructureException):
    error_code = ErrorCode.AUTH_TIMEOUT
    status_code = 504

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Authorization timeout after {seconds:g} seconds")


class GoLoginAPIException(InfrastructureException):
    """The profile browser's API refused a call or did not answer."""

    error_code = ErrorCode.GOLOGIN_API_ERROR
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

    error_code = ErrorCode.GOLOGIN_BREAKER_OPEN
    status_code = 503
    retryable = False
    default_message = (
        "Calls to GoLogin's cloud API are stopped because it limited their rate; check that the API token "
        "still works, then POST /gologin/breaker/close"
    )


class SeleniumConnectionException(InfrastructureException):
    error_code = ErrorCode.BROWSER_CONNECTION_FAILED

    def __init__(self, port: int | str) -> None:
        super().__init__(f"Cannot connect to browser on port {port}")


class BrowserCrashedException(InfrastructureException):
    error_code = ErrorCode.BROWSER_CRASHED
    default_message = "The profile's browser or its driver died during the authorization"


class ChromeDriverException(InfrastructureException):
    """No chromedriver that fits the profile's browser could be found or started."""

    error_code = ErrorCode.CHROMEDRIVER_UNAVAILABLE
    status_code = 503
    retryable = False


class TwitterAPIException(InfrastructureException):
    """The OAuth provider's API refused a call or did not answer."""

    error_code = ErrorCode.TWITTER_API_ERROR
    advice: ClassVar[str] = ""
    """End of the message: what to do about it."""

    def __init__(
        self,
        status: int | str,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after: float | None = None,
        provider: str = "Twitter",
        may_have_acted: bool = False,
    ) -> None:
        super().__init__(f"{provider} API error ({status}): {message}{self.advice}", retry_after=retry_after)
        self.limit: CallLimit | None = None
        """Limit that refused the call, where the answer names it."""
        self.may_have_acted = may_have_acted
        """The request may have reached the provider and done its work, and the answer is lost."""
        self.status = status
        """HTTP status, or a word such as ``timeout`` when there was no answer."""
        if retryable is not None:
            self.retryable = retryable


class InvalidGrantException(TwitterAPIException):
    """The provider refused the authorization code or the refresh token itself (RFC 6749, 5.2)."""

    error_code = ErrorCode.INVALID_GRANT
    retryable = False


class InvalidClientException(TwitterAPIException):
    """The provider refused the app itself: its authentication, or its access to the API; not the account."""

    error_code = ErrorCode.INVALID_CLIENT
    kind = FailureKind.APP
    retryable = False


class AccountRefusedException(AccountLockedException, TwitterAPIException):
    """The provider's API says that the account is locked or suspended; its session ends as ``needs_attention``."""

    retryable = False
    advice = "; the account is locked, a person must unlock it"

    def __init__(self, status: int | str, message: str, *, provider: str = "Twitter") -> None:
        TwitterAPIException.__init__(self, status, message, provider=provider)


class CreditsDepletedException(TwitterAPIException):
    """The app may make no API calls for now; its accounts and their tokens may be fine."""

    error_code = ErrorCode.CREDITS_DEPLETED
    kind = FailureKind.APP
    retryable = False
    advice = "; the app has no API credits left, buy some"


class DecryptionException(InfrastructureException):
    """A stored value opens with none of the configured keys, or belongs to another row."""

    error_code = ErrorCode.DECRYPTION_FAILED
    kind = FailureKind.UNEXPECTED
    status_code = 500
    retryable = False
    default_message = "A stored secret cannot be opened with the configured encryption keys"


class DatabaseUnavailableException(InfrastructureException):
    error_code = ErrorCode.DATABASE_UNAVAILABLE
    status_code = 503

    def __init__(self, reason: str) -> None:
        super().__init__(f"The database of DATABASE_URL cannot be used: {reason}", retry_after=5.0)
        self.reason = reason


class DatabaseBusyException(DatabaseUnavailableException):
    """Another transaction stood in the way of this one: the database is there for others."""


class SchemaOutOfDateException(InfrastructureException):
    error_code = ErrorCode.SCHEMA_OUT_OF_DATE
    status_code = 503
    retryable = False

    def __init__(self, current: str | None, head: str | None) -> None:
        super().__init__(
            f"The database schema is at '{current}', the code wants '{head}': run `python -m app migrate`"
        )


class PoolerSettingsException(DatabaseUnavailableException):
    """Server connections of PgBouncer lack settings that the service relies on."""

    retryable = False

    def __init__(self, missing: Mapping[str, str]) -> None:
        statements = " ".join(
            f"ALTER ROLE <user> IN DATABASE <name> SET {name} = '{value}';" for name, value in missing.items()
        )
        super().__init__(
            "its connections, behind a pooler, lack settings that the service relies on. Run over DATABASE_DIRECT_URL, "
            f"and let the pooler connect again: {statements}"
        )


class WorkerDiedException(InfrastructureException):
    """A worker died; the process must be started anew."""

    error_code = ErrorCode.WORKER_DIED
    status_code = 503
    default_message = "A worker has ended by an error; its log line is worker.died"


class LeaseLostException(InfrastructureException):
    """Another process may have taken over the row: whatever was done here is dropped."""

    error_code = ErrorCode.LEASE_LOST
    status_code = 503
    default_message = "The lease on the work was lost; another process goes on with it"


class ServiceStoppingException(InfrastructureException):
    """The process is shutting down; the work goes on after the restart."""

    error_code = ErrorCode.SERVICE_STOPPING
    status_code = 503
    default_message = "The service is stopping; the session goes on after its restart"
