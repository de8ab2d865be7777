"""Classification of an OAuth provider's refusals, by standard words and by the provider's own.

Sources: RFC 6749 (5.2), RFC 6750 (3.1), X's problem types; the docs of GitHub, Slack, Fitbit, Facebook and Reddit for
the shapes that refusals have.
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, quote, quote_plus, unquote, unquote_plus

import httpx
from pydantic import AfterValidator, ConfigDict, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from app.clients.answers import json_in, read_fields, to_text
from app.clients.texts import storable
from app.utils.exceptions import (
    AccountRefusedException,
    CreditsDepletedException,
    InvalidClientException,
    InvalidGrantException,
    TwitterAPIException,
)
from app.utils.masking import mask_text

_MAX_MESSAGE: Final = 300
_MAX_SEARCHED: Final = 20_000
"""Characters; what comes later is not shown."""
_MAX_ERRORS: Final = 10
"""Ceiling of errors that are read of a list."""
_MAX_CODE: Final = 200
_SECRET_FIELDS: Final = ("code", "code_verifier", "refresh_token", "token", "client_secret")
_QUOTED: Final = re.compile(r'"([^"]+)"')
_CODE_FIELDS: Final = ("error", "code", "reason", "type", "errorType", "errorCode", "error_code")
_TEXT_FIELDS: Final = ("error_description", "detail", "message", "title", "error_message", "msg")
_CLIENT_CODES: Final = frozenset(
    ("invalid_client", "unauthorized_client", "incorrect_client_credentials", "bad_client_secret")
)
"""RFC 6749; GitHub; Slack."""
_GRANT_CODES: Final = frozenset(
    (
        "invalid_grant",
        "invalid_token",
        "bad_verification_code",
        "bad_refresh_token",
        "invalid_code",
        "invalid_refresh_token",
    )
)
"""RFC 6749 and 6750; GitHub, twice; Slack, twice."""
_X_GRANT_WORDS: Final = "value passed for the"
"""X says `invalid_request` where it means the grant."""

Refusals = Mapping[int, type[InvalidClientException] | type[InvalidGrantException]]
"""Meaning of an HTTP status in answer to one certain call, where the body does not tell."""
NO_REFUSALS: Final[Refusals] = MappingProxyType({})


def _mark(value: str | int) -> str | int:
    if isinstance(value, int):
        return _refusal_status(value)
    if not value.strip():
        raise ValueError("is empty")
    return value.strip().lower()


def _refusal_status(value: int) -> int:
    if not 400 <= value < 500:
        raise ValueError("must be an HTTP status from 400 to 499")
    return value


_Marks = tuple[Annotated[StrictStr | StrictInt, AfterValidator(_mark)], ...]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ErrorRules:
    """A provider's own words for refusals, besides the standard's.

    A mark is an error's code in any case (``bad_refresh_token``, ``"190"``), a part of its message when there is a
    blank in it, or an HTTP status.
    """

    refresh_refused: _Marks = ()
    """Words of the token endpoint for a refresh token that is spent, revoked or expired."""
    client_refused: _Marks = ()
    """Words of any endpoint for an app whose credentials or access are refused."""
    account_refused: _Marks = ()
    """Words of any endpoint for an account that is locked or suspended."""
    token_refused: tuple[Annotated[StrictInt, AfterValidator(_refusal_status)], ...] = (
        HTTPStatus.UNAUTHORIZED.value,
    )
    """Statuses by which who-am-I refuses an access token."""


def classify_error(
    response: httpx.Response,
    *,
    provider: str,
    rules: ErrorRules,
    refusals: Refusals = NO_REFUSALS,
    retry_after: float | None = None,
) -> TwitterAPIException:
    """Return the error that a refusal means, also one that comes with status 200."""
    status = response.status_code
    codes, words = _codes_and_message(json_in(response) or read_fields(response))
    form = parse_qs(response.request.content.decode(errors="replace"))
    message = mask_text(words[:_MAX_SEARCHED], secrets=_request_secrets(response.request, form))[
        :_MAX_MESSAGE
    ]
    if status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS:
        # Whatever the body says: nothing was judged.
        return TwitterAPIException(status, message, provider=provider, retry_after=retry_after)
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return CreditsDepletedException(status, message, provider=provider)

    def is_marked(marks: Iterable[str | int]) -> bool:
        return any(
            mark in codes or mark == status or (" " in str(mark) and str(mark) in words.lower())
            for mark in marks
        )

    is_refresh = form.get("grant_type") == ["refresh_token"]
    if codes & _CLIENT_CODES or is_marked(rules.client_refused):
        return InvalidClientException(status, message, provider=provider)
    if is_marked(rules.account_refused):
        return AccountRefusedException(status, message, provider=provider)
    if codes & _GRANT_CODES or ("invalid_request" in codes and words.lower().startswith(_X_GRANT_WORDS)):
        return InvalidGrantException(status, message, provider=provider)
    if is_refresh and is_marked(rules.refresh_refused):
        return InvalidGrantException(status, message, provider=provider)
    if (meaning := refusals.get(status)) is not None:
        return meaning(status, message, provider=provider)
    return TwitterAPIException(status, message, retryable=False, provider=provider)


def tells_error(response: httpx.Response) -> bool:
    """Return whether an answer with the status of a success is a refusal; never one that holds a token."""
    body = read_fields(response)
    if body.get("access_token"):
        return False
    failed = body.get("ok") is False or body.get("success") is False
    return failed or bool(body.get("error")) or (bool(body.get("errors")) and "data" not in body)


def _codes_and_message(body: Any) -> tuple[frozenset[str], str]:
    """The codes of an error in lower case, and its message."""
    parts = list(_errors_in(body))
    codes = [text for part in parts for name in _CODE_FIELDS if (text := storable(to_text(part.get(name))))]
    texts = (part.get(name) for name in _TEXT_FIELDS for part in parts)
    words = next((text for each in texts if isinstance(each, str) and (text := storable(each))), "")
    lower_codes = {code[:_MAX_CODE].lower() for code in codes}
    # A problem's type is an address (RFC 9457).
    lower_codes |= {code.rpartition("/")[2] for code in lower_codes}
    return frozenset(lower_codes), words or next(iter(codes), "no message")


def _errors_in(body: Any) -> Iterator[dict[str, Any]]:
    """The objects that describe it: the body, its `error` object, its list of `errors`; or a list for a body."""
    for each in body[:_MAX_ERRORS] if isinstance(body, list) else [body]:
        if not isinstance(each, dict):
            continue
        yield each
        if isinstance(inner := each.get("error"), dict):
            yield inner
        if isinstance(errors := each.get("errors"), list):
            yield from (error for error in errors[:_MAX_ERRORS] if isinstance(error, dict))


def _request_secrets(request: httpx.Request, form: Mapping[str, list[str]]) -> set[str]:
    """Return the secrets that a refusal may quote: those of the form and the Authorization header, in any spelling."""
    secrets = {value for name in _SECRET_FIELDS for value in form.get(name, ())}
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme == "Basic":
        secrets.add(b64decode(credentials).decode().partition(":")[2])
    secrets.update(_QUOTED.findall(credentials) or [credentials])
    plain = secrets | {unquote(secret) for secret in secrets} | {unquote_plus(secret) for secret in secrets}
    return plain | {quote(secret, safe="") for secret in plain} | {quote_plus(secret) for secret in plain}
