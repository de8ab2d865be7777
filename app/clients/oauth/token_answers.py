"""Token answers (RFC 6749, 5.1), read so that no optional field costs the tokens."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import SecretStr

from app.clients.oauth.rate_limits import RateLimit
from app.clients.texts import storable

MAX_TOKEN_LIFE: Final = 10 * 365 * 86_400
"""Seconds; ten years."""
_BETWEEN_SCOPES: Final = re.compile(r"[\s,;]+")
"""GitHub is asked with spaces and answers with commas."""
_MAX_SCOPES: Final = 200
_MAX_SCOPE: Final = 500
"""Characters."""
_TOKEN: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""RFC 6749, appendix A.12: visible ASCII; anything else cannot go into a header."""
_NOT_BEARER: Final = ("mac", "dpop", "pop", "n_a")
"""Token types that a bearer header does not carry (RFC 6749, 7.1; RFC 9449; RFC 8693). Others are names that providers
give to bearer tokens: Apigee's ``BearerToken``, Slack's ``bot``."""


@dataclass(frozen=True)
class TokenResponse:
    """The tokens in an answer, and what it says of them."""

    access_token: SecretStr
    refresh_token: SecretStr | None = None
    expires_in: int | None = None
    """Lifetime of the access token in seconds, 1 to ten years; None: unknown."""
    scopes: tuple[str, ...] = ()
    """Granted scopes; none when the answer names none: they are those asked for."""
    rate_limit: RateLimit | None = None
    """Limit of the answer's headers; None when they name none."""


class UnusableAnswerError(ValueError):
    """An answer grants nothing that can be used; the message says why, without a value of the answer."""


def token_response(fields: Mapping[str, Any], rate_limit: RateLimit | None = None) -> TokenResponse:
    """The answer whose fields these are. Raises `UnusableAnswerError`; `tokens_in` finds what it holds all the same."""
    access_token, token_type = _token(fields.get("access_token")), fields.get("token_type")
    if not fields:
        raise UnusableAnswerError("neither a JSON object nor a form came")
    if access_token is None:
        value = fields.get("access_token")
        length = f" of length {len(value)}" if isinstance(value, str | list | dict) else ""
        actual = "nothing" if value is None else f"{type(value).__name__}{length}"
        raise UnusableAnswerError(f"access_token: {actual} came, a token of visible ASCII was expected")
    if isinstance(token_type, str) and token_type.strip().lower() in _NOT_BEARER:
        raise UnusableAnswerError(f"token_type: {token_type.strip().lower()} came, bearer was expected")
    return TokenResponse(
        access_token=access_token,
        refresh_token=_token(fields.get("refresh_token")),
        expires_in=lifetime(fields.get("expires_in")),
        scopes=split_scopes(fields.get("scope")),
        rate_limit=rate_limit,
    )


def tokens_in(fields: Mapping[str, Any]) -> list[SecretStr]:
    """The tokens that an answer holds, the refresh token first."""
    tokens = (_token(fields.get(name)) for name in ("refresh_token", "access_token"))
    return [token for token in tokens if token is not None]


def lifetime(value: Any) -> int | None:
    """Whole seconds, at most ten years, of a number or a text with one; None when it is neither, or none is left."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    return int(min(seconds, MAX_TOKEN_LIFE)) if seconds >= 1 else None


def split_scopes(value: Any) -> tuple[str, ...]:
    """Names of scopes in a list, or in a text with spaces, commas or semicolons between them; others are left out."""
    parts: Iterable[Any] = value if isinstance(value, list) else (value,)
    names = (
        name for part in parts if isinstance(part, str) for name in _BETWEEN_SCOPES.split(storable(part))
    )
    return tuple(dict.fromkeys(name for name in names if 0 < len(name) <= _MAX_SCOPE))[:_MAX_SCOPES]


def _token(value: Any) -> SecretStr | None:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value.strip()):
        return None
    return SecretStr(value.strip())
