"""Fixtures of the tests of the operators' page."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.fixtures.api import Api, opener
from tests.fixtures.dashboard import PageBrowser, page_browser
from tests.fixtures.openid import OpenIdServer, openid_server
from tests.fixtures.settings import MakeSettings


@pytest_asyncio.fixture
async def browser(api: Api) -> AsyncIterator[PageBrowser]:
    async with page_browser(api) as opened:
        yield opened


@pytest_asyncio.fixture
async def postgresql_api(
    make_settings: MakeSettings, postgresql_url: str, no_retries: None
) -> AsyncIterator[Api]:
    async with opener(make_settings, postgresql_url)(workers=False) as opened:
        yield opened


@pytest_asyncio.fixture
async def server() -> AsyncIterator[OpenIdServer]:
    async with openid_server() as opened:
        yield opened
