"""The API's description: what generators of clients need beyond what FastAPI finds out by itself."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI

from app.api.errors import CODES, error_responses
from app.api.examples import build_example
from app.api.http.rate_limit import QUOTA_HEADERS
from app.models import EventType
from app.utils.described_enum import DescribedEnum
from app.utils.exceptions import (
    AppException,
    BodyTooLargeException,
    ErrorCode,
    InvalidRequestException,
    UnsupportedMediaTypeException,
    UriTooLongException,
    exceptions_by_code,
)

_DESCRIPTION: Final = """\
API tokens for accounts that are signed in inside GoLogin browser profiles.

Every answer except an image, an export or a stream is one envelope. `success` says whether the request succeeded.
After a failure `error` is a message, and `error_code` is one of the codes that the operation lists for the HTTP
status (`x-error-codes`). The schema `ErrorCode` describes the codes, the schema `EventType` the types of events.
`request_id` is the `X-Request-ID` of the request, or a new id: quote it to the operators. Answers to a valid key have
the headers `RateLimit-Limit` (requests in any minute), `RateLimit-Remaining` (requests that are left) and
`RateLimit-Reset` (seconds until more are allowed).

Any request can also be refused with 404 `NOT_FOUND` or 405 `METHOD_NOT_ALLOWED` (no such route), and before it is
read with 400 `MALFORMED_REQUEST`, 408 `REQUEST_TIMEOUT`, 414 `URI_TOO_LONG` (8 KiB) or 431 `HEADERS_TOO_LARGE` (32
KiB). `HEAD` works wherever `GET` does. Durations are seconds, times are UTC (RFC 3339), bodies are JSON in UTF-8
unless an operation says otherwise. `x-error-codes` of this document has every code, its HTTP status, and whether the
same request may succeed later. A session can carry any code.
"""

_TAGS: Final = {
    "authorization": "Request an account's authorization, read its result, cancel it, try it again.",
    "batches": "Authorize many accounts at a limited pace.",
    "evidence": "What the browser showed when an attempt failed.",
    "accounts": "The tokens of authorized accounts.",
    "fleet": "The whole fleet in numbers.",
    "profiles": "GoLogin profiles, the accounts that they belong to, and syncs with GoLogin's list.",
    "apps": "OAuth apps that are paused after failures of their own, or limited by the provider.",
    "gologin": "The breaker that guards GoLogin's cloud API.",
    "keys": "API keys: create, list, rotate, revoke.",
    "events": "The audit trail of all changes, and its live stream.",
    "webhooks": "Deliveries of events to other systems.",
    "health": "Liveness and readiness of the process. No key is needed.",
}

LOCATION: Final = {"Location": {"$ref": "#/components/headers/Location"}}
"""The `headers=` of an answer that carries it."""

_HEADERS: Final = {
    "Location": {
        "description": "Path of the created or existing resource",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "RateLimitLimit": {
        "description": "Requests that the key may send in any minute",
        "schema": {"type": "integer", "minimum": 1},
    },
    "RateLimitRemaining": {
        "description": "Requests that are left",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RateLimitReset": {
        "description": "Seconds until more requests are allowed",
        "schema": {"type": "integer", "minimum": 0},
    },
    "RequestId": {
        "description": "The request's id, as in the envelope",
        "schema": {"type": "string", "maxLength": 128},
    },
    "RetryAfter": {
        "description": "Seconds until another attempt makes sense, when that is known",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWWAuthenticate": {
        "description": "The authentication that is required (RFC 9110, 11.6.1)",
        "schema": {"type": "string"},
    },
}
_TEXTS: Final = {
    "image/jpeg": "(the bytes of a JPEG image)",
    "text/csv": "id,event_type,occurred_at\n1,authorization.completed,2026-11-21T08:00:00Z\n",
    "application/x-ndjson": '{"id": 1, "event_type": "authorization.completed"}\n',
    "text/event-stream": 'id: 7-1\ndata: {"id": 1, "event_type": "authorization.completed"}\n\n',
}
"""Examples of answers that are not JSON."""
_TRANSIENT_STATUSES: Final = ("409", "429", "502", "503", "504")
_UNKNOWN_KEY: Final = "401"
_RATE_LIMITED: Final = "429"


def describe(app: FastAPI) -> None:
    """Complete the document of `app.openapi()`, once, at its first call."""
    plain = app.openapi
    app.description = _DESCRIPTION

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete_document(plain())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete_document(document: dict[str, Any]) -> dict[str, Any]:
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    used = {tag for operation in operations for tag in operation["tags"]}
    document["tags"] = [{"name": name, "description": text} for name, text in _TAGS.items() if name in used]
    document["servers"] = [{"url": "/"}]
    document[CODES] = {
        code: {"status": exception.status_code, "retryable": exception.retryable}
        for code, exception in exceptions_by_code().items()
    }
    document["components"]["headers"] = _HEADERS
    enums: tuple[type[DescribedEnum], ...] = (EventType, ErrorCode)
    document["components"]["schemas"] |= {
        enum.__name__: {
            "type": "string",
            "title": enum.__name__,
            "enum": [each.value for each in enum],
            "x-enum-descriptions": [each.description for each in enum],
            "description": "\n".join(f"- `{each}`: {each.description}" for each in enum),
        }
        for enum in enums
    }
    for operation in operations:
        _complete(operation)
    document["components"]["responses"] = _share_refusals(operations)
    document["components"]["examples"] = _add_examples(operations, document["components"]["schemas"])
    return document


def _add_examples(operations: Iterable[dict[str, Any]], schemas: dict[str, Any]) -> dict[str, Any]:
    """Give every body an example; those of answers are shared by schema, and returned as components."""
    shared: dict[str, Any] = {}
    for operation in operations:
        for media in operation.get("requestBody", {}).get("content", {}).values():
            if "example" not in media:
                media["example"] = build_example(media["schema"], schemas)
        for answer in operation["responses"].values():
            for media_type, media in answer.get("content", {}).items():
                if "schema" not in media:
                    media["example"] = _TEXTS[media_type]
                    continue
                name = media["schema"]["$ref"].rpartition("/")[2]
                shared[name] = {"value": build_example(media["schema"], schemas)}
                media["examples"] = {"answer": {"$ref": f"#/components/examples/{name}"}}
    return dict(sorted(shared.items()))


def _share_refusals(operations: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Move refusals to components, which are returned; their codes move to the operation, by status."""
    shared: dict[str, Any] = {}
    for operation in operations:
        codes: dict[str, list[str]] = {}
        for status, response in operation["responses"].items():
            if CODES not in response:
                continue
            codes[status] = response.pop(CODES)
            name = HTTPStatus(int(status)).name.title().replace("_", "")
            example = {
                "success": False,
                "data": None,
                "error": ErrorCode(codes[status][0]).description,
                "error_code": codes[status][0],
                "request_id": "6f1d1b0c7c5b4f6c9a52",
                "timestamp": "2026-11-21T08:00:00Z",
            }
            response["description"] = f"Refused with {status}; the operation's `{CODES}` has the codes"
            if name not in shared:
                shared[name] = response
                response["content"]["application/json"]["example"] = example
            operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
        operation[CODES] = codes
    return dict(sorted(shared.items()))


def _complete(operation: dict[str, Any]) -> None:
    """Add the refusals that every operation of its kind may answer, and the headers of each answer."""
    responses = operation["responses"]
    exceptions: list[type[AppException]] = [InvalidRequestException]
    if "requestBody" in operation:
        exceptions += [BodyTooLargeException, UnsupportedMediaTypeException]
    if "parameters" in operation:
        exceptions.append(UriTooLongException)
    for status, refusal in error_responses(*exceptions).items():
        # A new one for each: its example is added to it.
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
        described = {name: value for name, value in refusal.items() if name != "model"}
        responses.setdefault(str(status), {"content": content} | described)
    operation["responses"] = dict(sorted(responses.items()))
    for status, response in operation["responses"].items():
        headers = {"X-Request-ID": "RequestId"}
        if status in _TRANSIENT_STATUSES:
            headers["Retry-After"] = "RetryAfter"
        if status == _UNKNOWN_KEY:
            headers["WWW-Authenticate"] = "WWWAuthenticate"
        # The quota is not repeated on every refusal.
        if "security" in operation and (status < "400" or status == _RATE_LIMITED):
            headers |= {name: name.replace("-", "") for name in QUOTA_HEADERS}
        references = {name: {"$ref": f"#/components/headers/{each}"} for name, each in headers.items()}
        response["headers"] = references | response.get("headers", {})
