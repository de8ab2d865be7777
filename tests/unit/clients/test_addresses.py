"""Which addresses a webhook may lead to."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.clients.addresses import is_public, resolve

PRIVATE_V4 = [
    IPv4Network(network)
    for network in """
        0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
        192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15
        198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
    """.split()  # noqa: SIM905
]
PRIVATE_V6 = [
    IPv6Network(network)
    for network in """
        ::/128 ::1/128 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16
        2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8
    """.split()  # noqa: SIM905
]


def of(networks: list[IPv4Network] | list[IPv6Network]) -> st.SearchStrategy[str]:
    return st.sampled_from(networks).flatmap(lambda network: st.ip_addresses(network=network)).map(str)


@given(of(PRIVATE_V4) | of(PRIVATE_V6))
def test_private_address_is_not_public(address: str):
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_by_its_range(address: IPv4Address):
    assert is_public(str(address)) is not any(address in network for network in PRIVATE_V4)


@given(st.ip_addresses() | st.ip_addresses(network="2000::/3"))
def test_special_address_of_the_standard_library_is_not_public(address: IPv4Address | IPv6Address):
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(str(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_is_refused_even_if_it_is_public(inner: IPv4Address):
    number = int(inner)
    for outer in ("::", "::ffff:0:0", "64:ff9b::", "64:ff9b:1::", "2001::"):
        assert not is_public(str(IPv6Address(int(IPv6Address(outer)) | number)))
    assert not is_public(str(IPv6Address((0x2002 << 112) | (number << 80))))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450::8a"])
def test_machines_of_the_internet_are_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["fe80::1%lo", "2606:4700:4700::1111%lo", "192.0.0.192", "::ffff:1.1.1.1"]
)
def test_zone_or_notation_makes_no_address_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    ("host", "found"), [("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("localhost", "127.0.0.1")]
)
async def test_a_host_becomes_addresses(host: str, found: str):
    assert found in await resolve(host, 80)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1"])
async def test_other_spellings_of_an_address_become_the_address_that_is_meant(host: str, monkeypatch):
    monkeypatch.setattr("tests.fixtures.loopback._is_loopback", lambda host: True)
    assert await resolve(host, 80) == ["127.0.0.1"]


async def test_a_name_that_is_none_is_an_error():
    with pytest.raises(UnicodeError):
        await resolve("a" * 64 + ".localhost", 80)
