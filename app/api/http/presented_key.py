"""The API key that a request presents, in either of its headers."""

from typing import Final

from starlette.datastructures import Headers

from app.utils.exceptions import MalformedRequestException

KEY_HEADER: Final = "X-API-Key"
_BEARER: Final = "bearer"


def presented_key(headers: Headers) -> str | None:
    """Return the key of `X-API-Key` or `Authorization: Bearer` (RFC 6750, 2.1); None without one.

    Other schemes are not ours: a proxy in front of the service may use them. Raises `MalformedRequestException` for two
    different keys (RFC 6750, 3.1): whatever stands before the service may have gone by the other one.
    """
    key = headers.get(KEY_HEADER, "")
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    token = credentials.strip(" ") if scheme.lower() == _BEARER else ""
    if key and token and key != token:
        raise MalformedRequestException(
            f"{KEY_HEADER} and Authorization carry two different keys; send one of these headers"
        )
    return key or token or None
