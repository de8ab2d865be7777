"""Every failure as the one envelope, with its status and headers."""

import math
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.api.responses import APIResponse, error_response
from app.utils.exceptions import (
    AppException,
    AuthenticationException,
    AuthenticationLimitException,
    DatabaseUnavailableException,
    InvalidRequestException,
    OutOfReachException,
    PermissionDeniedException,
    RateLimitException,
)
from app.utils.logger import get_logger

_CODES: Final = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE"}
_SENTENCES: Final = {
    404: "No such address; the routes are listed at /docs",
    405: "This address does not take that method",
    413: "The request body is larger than allowed; send less",
}

log = get_logger(__name__)

Responses = dict[int | str, dict[str, Any]]


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(AppException, _handle_app_exception)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(HTTPException, _handle_http_exception)


def errors(*exceptions: type[AppException]) -> Responses:
    """The `responses=` of a route: what it may answer besides success; every route checks key and rate."""
    common = (
        AuthenticationException,
        PermissionDeniedException,
        OutOfReachException,
        RateLimitException,
        AuthenticationLimitException,
        InvalidRequestException,
        DatabaseUnavailableException,
    )
    by_status: dict[int, list[str]] = {}
    expected: list[type[AppException]] = [*exceptions, *common, AppException]
    for exception in expected:
        codes = by_status.setdefault(exception.status_code, [])
        codes.append(exception.error_code)
    return {
        status: {"model": APIResponse[None], "description": " or ".join(f"`{code}`" for code in codes)}
        for status, codes in sorted(by_status.items())
    }


def unexpected_error() -> dict[str, Any]:
    """The envelope of a 500: it shows no internals."""
    error = AppException()
    return error_response(error.message, error.error_code)


async def _handle_app_exception(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AppException)
    headers = {"Retry-After": str(math.ceil(error.retry_after))} if error.retry_after is not None else None
    if error.status_code >= 500:
        log.error("http.error", error_code=error.error_code, error=error.message)
    body = error_response(error.message, error.error_code, error.data)
    return JSONResponse(body, error.status_code, headers)


async def _handle_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Field and problem of each mistake; never the value, which may be a secret sent in the wrong place."""
    assert isinstance(error, RequestValidationError)
    sentences = "; ".join(_describe(item) for item in error.errors())
    return JSONResponse(
        error_response(sentences, InvalidRequestException.error_code), InvalidRequestException.status_code
    )


def _describe(item: dict[str, Any]) -> str:
    if item["type"] == "json_invalid":
        return "The body is not valid JSON"
    place = ".".join(str(part) for part in item["loc"] if part != "body") or "body"
    return f"{place}: {item['msg'].removeprefix('Value error, ')}"


async def _handle_http_exception(_request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses."""
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "INVALID_REQUEST")
    sentence = _SENTENCES.get(error.status_code, str(error.detail))
    return JSONResponse(error_response(sentence, code), error.status_code, error.headers)
