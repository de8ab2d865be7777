import pytest

from app.clients.browsers.devtools import same_endpoint

REDIRECT = "http://localhost:8000/callback"


@pytest.mark.parametrize(
    ("url", "redirect_uri"),
    [
        (f"{REDIRECT}?code=1&state=2", REDIRECT),
        (f"{REDIRECT}#part", REDIRECT),
        ("HTTP://LOCALHOST:8000/callback?code=1", REDIRECT),
        ("https://example.org/?code=1", "https://example.org"),
        ("https://example.org:443/cb", "https://example.org/cb"),
        ("http://example.org/cb", "http://example.org:80/cb"),
        ("https://xn--bcher-kva.example/callback?code=1", "https://bücher.example/callback"),
        ("https://example.org/r%C3%BCckruf?code=1", "https://example.org/rückruf"),
        ("https://example.org/r%c3%bcckruf?code=1", "https://example.org/rückruf"),
        ("https://example.org/call%20back?code=1", "https://example.org/call back"),
        ("https://example.org/callback?code=1", "https://example.org/a/../callback"),
        ("https://example.org/callback?code=1", "https://example.org/a/%2e%2e/callback"),
        ("http://127.0.0.1:9/cb?registered=1&code=1", "http://127.0.0.1:9/cb?registered=1"),
    ],
)
def test_the_redirect_is_recognised_however_it_is_spelt(url: str, redirect_uri: str):
    assert same_endpoint(url, redirect_uri)


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost:8000/callback",
        "http://localhost:8001/callback",
        "http://localhost/callback",
        "http://localhost:8000/callback/",
        "http://localhost:8000/callback2",
        "http://localhost:8000/Callback",
        "http://localhost.evil:8000/callback",
        f"http://evil/?next={REDIRECT}",
        "about:blank",
        "http://exa mple/callback",
        "data:text/html,x",
        "chrome-error://chromewebdata/",
        "http://localhost:8000/call%2Fback",
    ],
)
def test_no_other_address_is_taken_for_the_redirect(url: str):
    assert not same_endpoint(url, REDIRECT)
