"""Base classes of the service's errors."""

from enum import StrEnum
from typing import Any, ClassVar

from app.utils.exceptions.codes import ErrorCode
from app.utils.waits import bounded_wait


class FailureKind(StrEnum):
    """Cause of a failed authorization, which says whether another attempt may help."""

    ACCOUNT = "account"
    """The account's: a person must act; no retry."""
    APP = "app"
    """The OAuth app's: its settings must be mended; no retry, and after some in a row the app is paused."""
    TRANSIENT = "passing"
    """Nobody's: it is tried again."""
    UNEXPECTED = "unexpected"
    """A defect of ours; no retry."""


class AppException(Exception):
    """Root of the service's own errors; its attributes are those of an unexpected one."""

    error_code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR
    kind: FailureKind = FailureKind.UNEXPECTED
    status_code: ClassVar[int] = 500
    retryable: bool = False
    """True when the same request may succeed later without anybody changing anything."""
    default_message: ClassVar[str] = "An unexpected error occurred"
    """Message of an instance that is given none."""

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        self.message = self.default_message if message is None else message
        super().__init__(self.message)
        self.data: dict[str, Any] | None = None
        """Machine-readable details: the answer's `data`."""
        self.retry_after = None if retry_after is None else bounded_wait(retry_after)
        """Seconds after which to try again, when that is known; at most a day, whoever asks for it."""


class DomainException(AppException):
    """The request, the account or the app is the reason."""

    status_code = 400
    kind = FailureKind.ACCOUNT


class InfrastructureException(AppException):
    """Something the service depends on is the reason."""

    status_code = 502
    kind = FailureKind.TRANSIENT
    retryable = True


def exceptions_by_code() -> dict[ErrorCode, type[AppException]]:
    """Return the class of each code that one has, sorted by code; other codes occur in rows only."""
    classes: list[type[AppException]] = [AppException]
    for each in classes:  # grows meanwhile
        classes += each.__subclasses__()
    return dict(sorted((each.error_code, each) for each in classes if "error_code" in vars(each)))
