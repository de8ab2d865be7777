"""Which addresses are public, and what a name stands for: against requests that are made to reach the inside.

Sources: the IANA registries of special-purpose addresses (RFC 6890), which `ipaddress` knows, and what it lets pass.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port → addresses, in the order in which to try them. Raises `OSError`, `UnicodeError`."""

_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""Nothing else is routed; outside of it are IPv4-mapped addresses and NAT64, which lead to any IPv4 address."""
_NOT_PUBLIC: Final = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # the host's own services in Azure
        "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
        "2001::/23",  # protocol assignments, Teredo among them: leads to an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4: leads to an IPv4 address
        "3fff::/20",  # documentation (RFC 9637)
    )
)


def is_public(address: str) -> bool:
    """Whether it can only be a machine of the public internet. `address`: as text, without a zone."""
    parsed = ip_address(address)
    return (
        parsed.is_global
        and not parsed.is_multicast
        and not parsed.is_reserved
        and (isinstance(parsed, IPv4Address) or parsed in _GLOBAL_UNICAST)
        and not any(parsed in network for network in _NOT_PUBLIC if network.version == parsed.version)
    )


async def resolve(host: str, port: int) -> list[str]:
    """By the system's own means, in a thread of its own: one that hangs keeps nobody waiting, nor the exit."""
    if literal := _literal(host):
        return [literal]
    answer: Future[list[str]] = Future()
    threading.Thread(target=_look_up, args=(host, port, answer), daemon=True).start()
    return await asyncio.wrap_future(answer)


def _look_up(host: str, port: int, answer: "Future[list[str]]") -> None:
    answer.set_running_or_notify_cancel()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:  # the edge of a thread
        answer.set_exception(error)
    else:
        answer.set_result(list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)))


def _literal(host: str) -> str | None:
    try:
        parsed: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        return None
    return str(parsed)
