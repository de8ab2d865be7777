"""Every failure as the one envelope, with its status and headers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.api.responses import ErrorResponse, error_response
from app.utils.exceptions import (
    AppException,
    AuthenticationException,
    AuthenticationLimitException,
    BodyTooLargeException,
    DatabaseUnavailableException,
    InvalidRequestException,
    MethodNotAllowedException,
    OutOfReachException,
    PermissionDeniedException,
    RateLimitException,
    RouteNotFoundException,
    UnsupportedMediaTypeException,
)
from app.utils.logger import get_logger
from app.utils.masking import mask_own

CODES: Final = "x-error-codes"
"""Extension of a response in the API's description: the codes that it may carry."""

_CHALLENGE: Final = 'Bearer realm="GoLogin automation"'
"""Every 401 names what it wants (RFC 9110, 11.6.1; RFC 6750, 3); for X-API-Key no scheme is registered."""

_MAX_PROBLEMS: Final = 20
_MAX_FIELD_LENGTH: Final = 128

_LIMITS: Final = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "at least {min_length} characters",
    "too_long": "at most {max_length} items",
    "string_pattern_mismatch": "text that matches {pattern}",
    "literal_error": "{expected}",
    "enum": "{expected}",
}
"""Sentences of what is allowed, by pydantic's type of the error, whose own message says it, too."""

_KINDS: Final = {
    "bool_parsing": "true or false",
    "datetime_from_date_parsing": "a time with its zone, such as 2026-11-21T08:00:00Z",
    "timezone_aware": "a time with its zone, such as 2026-11-21T08:00:00Z",
    "string_unicode": "Unicode text without lone surrogates",
}
"""The same where the message does not say it."""

log = get_logger(__name__)

Responses = dict[int | str, dict[str, Any]]


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(AppException, _handle_app_exception)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(HTTPException, _handle_http_exception)


def errors(*exceptions: type[AppException]) -> Responses:
    """The `responses=` of a route: what it may answer besides success; every route checks key and rate."""
    return error_responses(
        *exceptions,
        AuthenticationException,
        PermissionDeniedException,
        OutOfReachException,
        RateLimitException,
        AuthenticationLimitException,
        InvalidRequestException,
        DatabaseUnavailableException,
        AppException,
    )


def error_responses(*exceptions: type[AppException]) -> Responses:
    by_status: dict[int, list[str]] = {}
    for exception in exceptions:
        codes = by_status.setdefault(exception.status_code, [])
        codes.append(exception.error_code)
    return {
        status: {
            "model": ErrorResponse,
            "description": " or ".join(f"`{code}`" for code in codes),
            CODES: codes,
        }
        for status, codes in sorted(by_status.items())
    }


def exception_response(error: AppException, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The envelope of `error`, with its status."""
    own_headers: dict[str, str] = {}
    if error.retry_after is not None:
        own_headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status_code == AuthenticationException.status_code:
        own_headers["WWW-Authenticate"] = _CHALLENGE
    body = error_response(mask_own(error.message), error.error_code, error.data)
    return JSONResponse(body, error.status_code, own_headers | dict(headers or {}))


async def _handle_app_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AppException)
    request.state.error_code = error.error_code
    if error.status_code >= 500:
        log.error("http.error", error_code=error.error_code, error=error.message)
    return exception_response(error)


async def _handle_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    items = error.errors()
    if any(item["loc"] == ("body",) and isinstance(item.get("input"), bytes) for item in items):
        return await _handle_app_exception(request, UnsupportedMediaTypeException())
    return await _handle_app_exception(request, invalid_request(items))


def invalid_request(items: Sequence[Any]) -> InvalidRequestException:
    """Return the refusal of a request: field and problem of each of pydantic's errors.

    Never the value, which may be a secret sent in the wrong place.
    """
    problems = [_problem(item) for item in items[:_MAX_PROBLEMS]]
    sentences: list[str] = []
    for item, each in zip(items, problems, strict=False):
        if item["type"] == "json_invalid":
            sentences.append(str(each["problem"]))
            continue
        allowed = f"; allowed: {each['allowed']}" if item["type"] in _KINDS else ""
        sentences.append(f"{each['field']}: {each['problem']}{allowed}")
    refusal = InvalidRequestException("; ".join(sentences))
    refusal.data = {"problems": problems}
    return refusal


def _problem(item: Mapping[str, Any]) -> dict[str, str | None]:
    if item["type"] == "json_invalid":
        return {"field": "body", "problem": "The body is not valid JSON", "allowed": None}
    location = ".".join(str(part) for part in item["loc"] if part != "body") or "body"
    context = item.get("ctx", {})
    template = (_LIMITS | _KINDS).get(item["type"])
    return {
        # One that we do not know is named as the caller has named it.
        "field": mask_own(location)[:_MAX_FIELD_LENGTH],
        "problem": item["msg"].removeprefix("Value error, "),
        "allowed": template.format(**context) if template else None,
    }


async def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Answer refusals of the framework itself: an unknown address, a wrong method, a body that it cannot read."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return await _handle_app_exception(request, RouteNotFoundException())
    if error.status_code == 405:
        # The methods of all routes of the address (RFC 9110, 15.5.6); the framework knows those of the first.
        openapi: Callable[[], dict[str, Any]] = request.app.openapi
        path = getattr(request.scope.get("route"), "path_format", "")
        methods = {method.upper() for method in openapi()["paths"].get(path, ())}
        if "GET" in methods:
            methods.add("HEAD")
        allowed = ", ".join(sorted(methods)) or (error.headers or {}).get("Allow", "")
        return exception_response(MethodNotAllowedException(request.method, allowed), {"Allow": allowed})
    if error.status_code == 413:
        return JSONResponse(error_response(error.detail, BodyTooLargeException.error_code), 413)
    if error.status_code == 400:  # neither text nor numbers that Python reads, or nested too deep
        return await _handle_app_exception(request, InvalidRequestException("The body is not valid JSON"))
    body = error_response(str(error.detail), InvalidRequestException.error_code)
    return JSONResponse(body, error.status_code, error.headers)
