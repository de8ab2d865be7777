"""Addresses at which a consent may be pressed: the provider's consent page, and the provider's own origins.

The rules are regular expressions over ``origin + path`` that JavaScript and Python read alike: the page's script
classifies with them, and the browser's own address is compared with them again before anything is pressed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from app.services.oauth.provider import ConsentPageRules

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_ANY_SUBPATH: Final = "/*"
_KEPT_IN_PATH: Final = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True)
class ConsentPlaces:
    """`consent`: a pattern of each consent page, and the length of its path; `origins`: patterns of the provider's."""

    consent: tuple[tuple[str, int], ...]
    origins: tuple[str, ...]

    @classmethod
    def from_rules(cls, authorize_url: str, rules: ConsentPageRules) -> "ConsentPlaces":
        """The authorize endpoint's own page, and what the rules name besides.

        A provider may lead from `http` to `https` on the same host, never the other way round.
        """
        parts = urlsplit(authorize_url)
        own_origins = [_origin(authorize_url)] + (
            [f"https://{_host(parts)}"] if parts.scheme == "http" else []
        )
        paths = [parts.path, *rules.consent_paths]
        urls = [*(origin + path for path in paths for origin in own_origins), *rules.consent_urls]
        origins = dict.fromkeys(map(_origin, [*urls, *rules.provider_origins]))
        return cls(
            consent=tuple(_pattern(url) for url in urls),
            origins=tuple(f"^{re.escape(each)}/" for each in origins),
        )

    def is_consent_page(self, url: str) -> bool:
        return _any_matches((pattern for pattern, _ in self.consent), url)

    def is_of_provider(self, url: str) -> bool:
        return _any_matches(self.origins, url)


def page_name(url: str) -> str:
    """Host and path of an address, for an error's sentence; of other schemes than HTTP the scheme alone."""
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS:
        return f"{parts.scheme or 'about'}:"
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


def _any_matches(patterns: Iterable[str], url: str) -> bool:
    try:
        parts = urlsplit(url)
        address = f"{_origin(url)}{parts.path or '/'}"
    except ValueError:
        return False
    return any(re.search(pattern, address) for pattern in patterns)


def _pattern(url: str) -> tuple[str, int]:
    """``/*`` at the end stands for every path below; a slash at the end makes no difference."""
    is_below = url.endswith(_ANY_SUBPATH)
    path = quote(urlsplit(url.removesuffix(_ANY_SUBPATH)).path, safe=_KEPT_IN_PATH).rstrip("/")
    end = "/.+$" if is_below else "/?$"
    return f"^{re.escape(_origin(url) + path)}{end}", len(path) or 1


def _origin(url: str) -> str:
    """Return the origin as browsers write it: host in lower case and ASCII, without a default port."""
    parts = urlsplit(url)
    is_default = parts.port in (None, _DEFAULT_PORTS.get(parts.scheme))
    return f"{parts.scheme}://{_host(parts)}" + ("" if is_default else f":{parts.port}")


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode()
    return f"[{host}]" if ":" in host else host
