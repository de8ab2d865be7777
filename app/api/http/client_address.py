"""Client addresses, also behind trusted proxies."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

Network = IPv4Network | IPv6Network

UNKNOWN: Final = "unknown"
"""Name of a connection that has no address, such as a Unix socket's."""


def client_address(scope: Scope) -> str:
    """The caller's IP address; of a peer of `TRUSTED_PROXIES` the right-most of X-Forwarded-For that is none of them.

    What stands left of that one the caller may have written; what is no address is not passed over either.
    """
    peer = scope["client"][0] if scope.get("client") else UNKNOWN
    trusted: Sequence[Network] = scope["app"].state.trusted_proxies
    if not trusted:
        return peer
    hops = ",".join(Headers(scope=scope).getlist("X-Forwarded-For")).split(",")
    nearest = _parse(peer)
    for hop in reversed(hops):
        if nearest is None or not any(nearest in network for network in trusted):
            break
        if (address := _parse(hop)) is None:
            break
        nearest = address
    return str(nearest) if nearest else peer


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address without the port that some proxies add; IPv4 written as IPv6 becomes IPv4."""
    text = text.strip()
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
