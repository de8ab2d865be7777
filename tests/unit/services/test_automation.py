"""Which error of an authorization stands for an error of the driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from selenium.common.exceptions import (
    InsecureCertificateException,
    InvalidSessionIdException,
    JavascriptException,
    TimeoutException,
    WebDriverException,
)
from urllib3.exceptions import ProtocolError
from websockets.exceptions import ConnectionClosedError

from app.services.automation import obtain_code
from app.services.interfaces import BrowserTimeouts
from app.utils.exceptions import (
    AuthorizationTimeoutException,
    BrowserCrashedException,
    ConsentDeclinedException,
    ProfileNetworkException,
)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (InvalidSessionIdException("x"), BrowserCrashedException),
        (WebDriverException("tab crashed"), BrowserCrashedException),
        (ProtocolError("x"), BrowserCrashedException),
        (ConnectionRefusedError(), BrowserCrashedException),
        (ConnectionClosedError(None, None), BrowserCrashedException),
        (WebDriverException("unknown error: net::ERR_PROXY_CONNECTION_FAILED"), ProfileNetworkException),
        (WebDriverException("aborted by navigation\nfrom target frame detached"), BrowserCrashedException),
        (WebDriverException("unknown error: net::ERR_INTERNET_DISCONNECTED"), ProfileNetworkException),
        (InsecureCertificateException("insecure certificate"), ProfileNetworkException),
        (TimeoutException("x"), AuthorizationTimeoutException),
        (JavascriptException("x"), JavascriptException),
        (ConsentDeclinedException("alice"), ConsentDeclinedException),
    ],
)
def test_death_of_the_driver_has_its_own_error(error: Exception, ours: type[Exception]):
    class Controller:
        @contextmanager
        def connect_to_profile(self, request: Any) -> Iterator[None]:
            raise error
            yield

    with pytest.raises(ours) as caught:
        obtain_code(Controller(), SimpleNamespace(timeouts=BrowserTimeouts(1, 1, 1, 1)), print)
    assert caught.type is ours
