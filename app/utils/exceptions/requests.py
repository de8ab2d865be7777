"""Requests that cannot be taken, whoever sends them."""

from app.utils.exceptions.base import DomainException
from app.utils.exceptions.codes import ErrorCode


class InvalidRequestException(DomainException):
    error_code = ErrorCode.INVALID_REQUEST
    status_code = 422


class InvalidCursorException(DomainException):
    error_code = ErrorCode.INVALID_CURSOR
    status_code = 422
    default_message = "This cursor is damaged, or of a list with other filters; begin without one"


class UnknownEventIdException(DomainException):
    error_code = ErrorCode.UNKNOWN_EVENT_ID
    status_code = 422
    default_message = (
        "This Last-Event-ID is none that the stream has sent, or the database was restored since; "
        "connect without one, and read GET /events for what came before"
    )


class TooManyStreamsException(DomainException):
    error_code = ErrorCode.TOO_MANY_STREAMS
    status_code = 429
    retryable = True

    def __init__(self, subject: str, limit: int) -> None:
        super().__init__(f"{subject} has {limit} event streams open, which is the limit", retry_after=5.0)


class TooManyExportsException(DomainException):
    error_code = ErrorCode.TOO_MANY_EXPORTS
    status_code = 429
    retryable = True

    def __init__(self, subject: str, limit: int) -> None:
        super().__init__(f"{subject} has {limit} exports under way, which is the limit", retry_after=30.0)


class RouteNotFoundException(DomainException):
    error_code = ErrorCode.NOT_FOUND
    status_code = 404
    default_message = "No such address; openapi.json and docs/api.md list the routes"


class MethodNotAllowedException(DomainException):
    error_code = ErrorCode.METHOD_NOT_ALLOWED
    status_code = 405

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"This address does not take {method}; allowed: {allowed}")


class UnsupportedMediaTypeException(DomainException):
    error_code = ErrorCode.UNSUPPORTED_MEDIA_TYPE
    status_code = 415

    def __init__(self, allowed: str = "application/json") -> None:
        super().__init__(f"The body's Content-Type is not taken here; allowed: {allowed}")


class MalformedRequestException(DomainException):
    """No HTTP (RFC 9112), a header twice that decides, or two different keys."""

    error_code = ErrorCode.MALFORMED_REQUEST
    status_code = 400

    def __init__(self, reason: str = "The request is not valid HTTP") -> None:
        super().__init__(reason)


class UriTooLongException(DomainException):
    error_code = ErrorCode.URI_TOO_LONG
    status_code = 414

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request's address is longer than {limit_bytes // 1024} KiB")


class HeadersTooLargeException(DomainException):
    error_code = ErrorCode.HEADERS_TOO_LARGE
    status_code = 431

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request's headers are larger than {limit_bytes // 1024} KiB; send less")


class RequestTimeoutException(DomainException):
    """The client stopped sending the request (RFC 9110, 15.5.9)."""

    error_code = ErrorCode.REQUEST_TIMEOUT
    status_code = 408
    retryable = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request did not arrive within {seconds:g} seconds")


class CrossOriginException(DomainException):
    """A browser asks before a page of another origin calls (CORS)."""

    error_code = ErrorCode.CROSS_ORIGIN_REFUSED
    status_code = 403
    default_message = "Pages of this origin may not send this method with these headers; see CORS_ORIGINS"


class BodyTooLargeException(DomainException):
    error_code = ErrorCode.BODY_TOO_LARGE
    status_code = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than {limit_bytes // 1024} KiB; send less")
