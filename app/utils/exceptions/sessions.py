"""Authorization sessions, batches and the apps they are for."""

import math

from app.utils.exceptions.base import DomainException, FailureKind
from app.utils.exceptions.codes import ErrorCode


class UnknownApiAppException(DomainException):
    error_code = ErrorCode.UNKNOWN_API_APP
    kind = FailureKind.APP
    status_code = 422

    def __init__(self, api_app: str, names: list[str]) -> None:
        super().__init__(
            f"Unknown api_app '{api_app}'; the configured ones are: {', '.join(names) or 'none'}"
        )


class SessionNotFoundException(DomainException):
    error_code = ErrorCode.SESSION_NOT_FOUND
    status_code = 404

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"No authorization session '{session_id}'; check the id that POST /authorize returned"
        )


class SessionEndedException(DomainException):
    error_code = ErrorCode.SESSION_ENDED
    status_code = 409

    def __init__(self, session_id: str, status: str) -> None:
        super().__init__(f"The authorization session {session_id} has ended as '{status}' already")


class SessionNotEndedException(DomainException):
    error_code = ErrorCode.SESSION_NOT_ENDED
    status_code = 409

    def __init__(self, session_id: str, status: str) -> None:
        super().__init__(
            f"The authorization session {session_id} is '{status}'; only one that failed, timed out, was cancelled or "
            "needs attention can be tried again"
        )


class ScreenshotNotFoundException(DomainException):
    error_code = ErrorCode.SCREENSHOT_NOT_FOUND
    status_code = 404

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"No screenshot of the authorization session {session_id}: it failed outside of the browser, "
            "the page did not answer, or its time is over; look at its evidence and attempt_list"
        )


class AttentionNotNeededException(DomainException):
    error_code = ErrorCode.ATTENTION_NOT_NEEDED
    status_code = 409

    def __init__(self, session_id: str, status: str) -> None:
        super().__init__(
            f"The authorization session {session_id} is '{status}'; only one that needs attention can be resumed, "
            f"others start again with POST /authorize/{session_id}/retry"
        )


class TransitionRefusedException(DomainException):
    """The table of transitions does not know this one."""

    error_code = ErrorCode.TRANSITION_REFUSED
    status_code = 409

    def __init__(self, old: str, new: str) -> None:
        super().__init__(f"A session cannot go from '{old}' to '{new}'")


class BatchNotFoundException(DomainException):
    error_code = ErrorCode.BATCH_NOT_FOUND
    status_code = 404

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"No batch '{batch_id}'; check the id that POST /authorize/batch returned")


class BatchEmptyException(DomainException):
    error_code = ErrorCode.BATCH_EMPTY
    status_code = 422

    def __init__(self, first_reason: str) -> None:
        super().__init__(f"No row of the batch can become a session; the first: {first_reason}")


class BatchEndedException(DomainException):
    error_code = ErrorCode.BATCH_ENDED
    status_code = 409

    def __init__(self, batch_id: str, status: str) -> None:
        super().__init__(f"The batch {batch_id} has ended as '{status}' already")


class BatchEndingException(DomainException):
    """The session's batch is being cancelled."""

    error_code = ErrorCode.BATCH_ENDING
    status_code = 409
    retryable = True

    def __init__(self, batch_id: str, status: str) -> None:
        super().__init__(
            f"Its batch {batch_id} is {status}, and some of its sessions still run; try again when they have ended"
        )


class NothingToRetryException(DomainException):
    error_code = ErrorCode.NOTHING_TO_RETRY
    status_code = 409

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"No session of the batch {batch_id} can be tried again; those that need attention only when asked for, "
            "and none whose account has another open one"
        )


class IdempotencyConflictException(DomainException):
    error_code = ErrorCode.IDEMPOTENCY_CONFLICT
    status_code = 409
    default_message = (
        "This Idempotency-Key was sent before with another body; use a new key for a new request"
    )


class AppPausedException(DomainException):
    error_code = ErrorCode.APP_PAUSED
    status_code = 409
    kind = FailureKind.APP

    def __init__(self, api_app: str, reason: str) -> None:
        super().__init__(
            f"The OAuth app {api_app} is paused ({reason}); mend it, then POST /apps/{api_app}/resume"
        )


class AppLimitedException(DomainException):
    """The provider limits the app's rate; nothing of it is called before that is over."""

    error_code = ErrorCode.APP_LIMITED
    kind = FailureKind.TRANSIENT
    status_code = 429
    retryable = True

    def __init__(self, api_app: str, retry_after: float) -> None:
        message = f"The provider limits the rate of {api_app} for {math.ceil(retry_after)} seconds more"
        super().__init__(message, retry_after=retry_after)


class TooManyWaitingException(DomainException):
    error_code = ErrorCode.TOO_MANY_WAITING
    status_code = 429
    retryable = True

    def __init__(self, limit: int, retry_after: float) -> None:
        super().__init__(
            f"{limit} authorizations are waiting already; try again later", retry_after=retry_after
        )
