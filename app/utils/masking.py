"""Secrets taken out of texts: by their place in a URL, by what they are called, by how they look, or as they are."""

import json
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

MASK: Final = "[masked]"

_MIN_SECRET_LENGTH: Final = 6
"""A shorter string stands in too many words to be replaced."""
_SECRET_IN_URL: Final = re.compile(
    r"([?&](?:code|state|code_verifier|access_token|refresh_token|oauth_token|oauth_verifier|denied)=)[^&\\\s\"'<>]+"
)
_QUERY: Final = re.compile(
    r"((?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://[^\s?#\"'<>]*)([?#][^\s\"'<>]*)?", re.IGNORECASE
)
"""A secret in a query, also without a scheme: what is found is not looked through again."""
# Of a proxy: in its URL, without a scheme, or as lists of proxies are sold.
_USERINFO: Final = re.compile(
    r"(?<=://)[^\s/?#:@\"'<>]*(?::(?!\d+[/?#])[^\s\"'<>]{1,200})?@(?=[\w\[])"
    r"|(?<![^\s\"'<>])(?!(?i:mailto|acct|email):[^\s:@]*@)[^\s:/@\"'<>]+:[^\s/@\"'<>]+@(?=\w)"
)
# A host has a dot, or a letter that no part of an IPv6 address has: a time has neither.
_AFTER_PORT: Final = re.compile(
    r"(?<![\w.-])(?=[\w.-]*[.g-zG-Z])([\w.-]+:\d{2,5}):[^\s:/\"'<>,]+:[^\s\"'<>,]+"
)
_AUTHORIZATION: Final = re.compile(
    r"\b(authorization[\"']?\s*[=:]\s*[\"']?(?:bearer|basic|digest|token)\s+)[^\s\"',;]+"
    r"|\b((?:bearer|basic)\s+)(?=[^\s\"',;]{0,40}?(?:[\d+~]|=(?![^\s,;])|(?-i:[a-z][A-Z])))[^\s\"',;]{8,}",
    re.IGNORECASE,
)
"""Any value of the header; in a sentence a value that is no word."""
_NAMED_SECRET: Final = re.compile(
    r"((?<![\w-])[\w-]*(?:token|secret|passw(?:or)?d|verifier|cookie|api[_-]?key)\w{0,40}[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;)}\]]+"
    r"|(\b(?:code|state)[\"']?\s*[=:]\s*[\"']?)(?=[^\s\"'&,;)}\]]{0,40}?(?:\d|(?-i:[a-z][A-Z])))[^\s\"'&,;)}\]]{6,}",
    re.IGNORECASE,
)
# The look-behinds and the bounds of 40 here keep the time linear: a page may write a word of any length.
_OWN_SECRET: Final = re.compile(r"\b(gla_[0-9a-f]{8}_|whsec_)[\w+/=-]{16,}")
"""API keys and webhooks' secrets, as they are made."""
_RANDOM_LOOKING: Final = re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{24,}")


_known: set[str] = set()
"""Secrets of the settings, as a text, a JSON string and an address have them."""


def know_secrets(*secrets: str) -> None:
    """Mask these as `mask_own` does our own keys; one that is too short to tell from a word is left out."""
    for secret in secrets:
        if len(secret) >= _MIN_SECRET_LENGTH:
            _known.update((secret, json.dumps(secret)[1:-1], quote(secret, safe="")))


def mask_line(text: str) -> str:
    """A text of ours: without our own keys, and those query parameters that OAuth keeps secret."""
    return mask_own(_SECRET_IN_URL.sub(rf"\1{MASK}", text))


def mask_own(text: str) -> str:
    """Mask our own API keys, webhooks' secrets and known ones, which a caller may send in a wrong place."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _OWN_SECRET.sub(rf"\1{MASK}", text)


def mask_text(text: str, *, secrets: Iterable[str] = ()) -> str:
    """A text of somebody else's, fit to be kept: without the `secrets` and all that may be one.

    URLs lose query and fragment. It rather masks too much: an id of 24 characters looks like a token.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _MIN_SECRET_LENGTH:
            text = text.replace(secret, MASK)
    text = _USERINFO.sub(f"{MASK}@", mask_own(text))
    text = _QUERY.sub(lambda match: match[1] + (f"?{MASK}" if match[2] else ""), text)
    text = _AFTER_PORT.sub(rf"\1:{MASK}", text)
    for pattern in (_AUTHORIZATION, _NAMED_SECRET):
        text = pattern.sub(lambda match: f"{match[1] or match[2]}{MASK}", text)
    return _RANDOM_LOOKING.sub(MASK, text)
