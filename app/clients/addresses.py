"""Public addresses and name resolution: a guard against requests that are made to reach the inside (SSRF).

Sources: the IANA registries of special-purpose addresses of IPv4 and IPv6 (RFC 6890), written out, because what
`ipaddress` knows of them changes with the release of Python. Refused is also what they call reachable and no receiver
has: relays, anycast of protocols, sinks (AS112).
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import Final

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port → addresses, in the order in which to try them. Raises `OSError`, `UnicodeError`."""

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""Nothing else is routed. Outside are the local ones, multicast, and those that lead to any IPv4 address: mapped and
compatible ones, NAT64 (64:ff9b::/96, 64:ff9b:1::/48)."""
_NOT_PUBLIC_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by a carrier's customers; metadata of some clouds
        "127.0.0.0/8",
        "168.63.129.16/32",  # the host's own services in Azure
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; metadata of Oracle's cloud
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
_NOT_PUBLIC_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them: leads to an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4: leads to an IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)


def is_public(address: str) -> bool:
    """Return whether the address can only be a machine of the public internet. One with a zone (``%eth0``) cannot."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NOT_PUBLIC_V4)
    is_inside = parsed.scope_id or any(parsed in network for network in _NOT_PUBLIC_V6)
    return parsed in _GLOBAL_UNICAST and not is_inside


async def resolve(host: str, port: int) -> list[str]:
    """Resolve a name with the system's resolver, in a thread of its own: a hung one delays no caller and no exit."""
    with suppress(ValueError):
        return [str(ip_address(host))]
    answer: Future[list[str]] = Future()
    threading.Thread(target=_look_up, args=(host, port, answer), daemon=True).start()
    return await asyncio.wrap_future(answer)


def _look_up(host: str, port: int, answer: "Future[list[str]]") -> None:
    answer.set_running_or_notify_cancel()
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:  # the edge of a thread
        answer.set_exception(error)
    else:
        answer.set_result(list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in entries)))
