"""Tokens that are not there, or work no more."""

import math

from app.utils.exceptions.base import DomainException
from app.utils.exceptions.codes import ErrorCode


class TokenNotFoundException(DomainException):
    error_code = ErrorCode.TOKEN_NOT_FOUND
    status_code = 404

    def __init__(self, account_id: str, api_app: str) -> None:
        super().__init__(f"No token of @{account_id} in {api_app}; POST /authorize makes one")


class TokenRevokedException(DomainException):
    error_code = ErrorCode.TOKEN_REVOKED
    status_code = 409

    def __init__(self, account_id: str) -> None:
        super().__init__(f"The token of @{account_id} is being revoked; POST /authorize makes a new one")


class AccountCountException(DomainException):
    error_code = ErrorCode.ACCOUNT_COUNT_CHANGED
    status_code = 409

    def __init__(self, expected: int, count: int) -> None:
        super().__init__(
            f"The filter matches {count} accounts now, and `expected_count` is {expected}; nothing was done: "
            "send the dry run again"
        )
        self.data = {"count": count}


class ReauthorizationRequiredException(DomainException):
    error_code = ErrorCode.REAUTHORIZATION_REQUIRED
    status_code = 409

    def __init__(self, account_id: str, session_id: str | None) -> None:
        running = f"session {session_id} is at it" if session_id else "POST /authorize starts that"
        super().__init__(f"@{account_id} must be authorised anew before it has a token; {running}")
        self.data = {"session_id": session_id}


class TokenExpiredException(DomainException):
    error_code = ErrorCode.TOKEN_EXPIRED
    status_code = 409

    def __init__(self, account_id: str, reason: str = "", *, retry_after: float | None = None) -> None:
        explanation = (
            f"could not be refreshed now ({reason}); try again" if reason else "authorize the account again"
        )
        super().__init__(f"The token of @{account_id} is expired; {explanation}", retry_after=retry_after)


class RefreshedJustNowException(DomainException):
    """However short the lifetimes are that a provider names, an account is not refreshed all the time."""

    error_code = ErrorCode.REFRESHED_JUST_NOW
    status_code = 429
    retryable = True

    def __init__(self, account_id: str, retry_after: float) -> None:
        message = f"@{account_id} was refreshed just now; its next one may begin in {math.ceil(retry_after)} seconds"
        super().__init__(message, retry_after=retry_after)


class TokenNotRefreshableException(DomainException):
    """An OAuth 1.0a token has neither an end nor a refresh token."""

    error_code = ErrorCode.TOKEN_NOT_REFRESHABLE
    status_code = 409

    def __init__(self, account_id: str, api_app: str) -> None:
        super().__init__(
            f"The token of @{account_id} in {api_app} cannot be refreshed and need not be: it is OAuth 1.0a's and does "
            "not expire"
        )
