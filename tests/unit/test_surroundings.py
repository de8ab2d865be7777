"""The test suite's own rules."""

import socket

import httpx
import pytest

from tests.fixtures.loopback import LeftLoopbackError


def test_no_connection_leaves_this_machine():
    with socket.socket() as outside, pytest.raises(LeftLoopbackError):
        outside.connect(("192.0.2.1", 80))


@pytest.mark.parametrize(
    "url", ["https://api.gologin.com/user", "http://192.0.2.1/", "http://[2001:db8::1]/"]
)
def test_no_client_leaves_this_machine(url: str):
    with httpx.Client(trust_env=False) as client, pytest.raises(LeftLoopbackError):
        client.get(url)


def test_loopback_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
