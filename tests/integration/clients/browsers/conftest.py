"""Fixtures of the tests of the profile browsers' clients."""

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio
import stamina

from sandbox.admin_client import NO_TLS


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Make as many attempts as in life, without the pauses."""
    with stamina.set_testing(True, attempts=10, cap=True):
        yield


@pytest.fixture
def sent() -> list[str]:
    """Methods of all requests that the client has sent."""
    return []


@pytest_asyncio.fixture
async def counted(sent: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP client that notes what it sends."""

    async def count(request: httpx.Request) -> None:
        sent.append(request.method)

    async with httpx.AsyncClient(trust_env=False, verify=NO_TLS, event_hooks={"request": [count]}) as http:
        yield http
