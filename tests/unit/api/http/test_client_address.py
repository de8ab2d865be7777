"""Only a trusted proxy says who the caller is."""

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from app.api.http.client_address import UNKNOWN, client_address

TRUSTED = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8")))


def address(peer: str | None, *forwarded: str, trusted: Any = TRUSTED) -> str:
    app = SimpleNamespace(state=SimpleNamespace(trusted_proxies=trusted))
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return client_address({"client": peer and (peer, 4711), "app": app, "headers": headers})


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("192.0.2.7",), "192.0.2.7"),
        ("10.0.0.1", ("198.51.100.1, 192.0.2.7, 10.9.9.9",), "192.0.2.7"),
        ("10.0.0.1", ("198.51.100.1", "192.0.2.7", "10.9.9.9"), "192.0.2.7"),
        ("10.0.0.1", ("10.1.1.1, 10.2.2.2",), "10.1.1.1"),
        ("10.0.0.1", ("192.0.2.7:4711",), "192.0.2.7"),
        ("10.0.0.1", ("[2001:db8::7]:443",), "2001:db8::7"),
        ("::ffff:10.0.0.1", ("2001:DB8::7",), "2001:db8::7"),
        ("10.0.0.1", ("192.0.2.7, nonsense",), "10.0.0.1"),
        ("10.0.0.1", ("192.0.2.7, , 10.9.9.9",), "10.9.9.9"),
        ("203.0.113.5", ("192.0.2.7",), "203.0.113.5"),
        (None, ("192.0.2.7",), UNKNOWN),
    ],
)
def test_the_right_most_untrusted_address_is_the_caller(
    peer: str | None, forwarded: tuple[str, ...], expected: str
) -> None:
    assert address(peer, *forwarded) == expected


def test_header_without_trusted_proxies_is_ignored() -> None:
    assert address("10.0.0.1", "192.0.2.7", trusted=()) == "10.0.0.1"
