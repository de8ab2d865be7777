"""Where a consent may be pressed: the consent page by origin and path, and the provider's own origins."""

import pytest

from app.services.browser.consent_places import ConsentPlaces, page_name
from app.services.oauth.provider import ConsentPageRules, x_provider

PLACES = ConsentPlaces.from_rules(
    "https://Provider.example/login/oauth/authorize?client_id=7",
    ConsentPageRules(
        consent_buttons=("button",),
        consent_paths=("/interaction/*", "/a.b"),
        consent_urls=("https://login.provider.example:8443/zustimmung/ä",),
        provider_origins=("https://bücher.example",),
    ),
)


@pytest.mark.parametrize(
    ("url", "is_consent", "is_of_provider"),
    [
        ("https://provider.example/login/oauth/authorize?state=s#f", True, True),
        ("https://provider.example:443/login/oauth/authorize/", True, True),
        ("https://provider.example/interaction/x/y", True, True),
        ("https://provider.example/a.b", True, True),
        ("https://login.provider.example:8443/zustimmung/%C3%A4", True, True),
        ("https://provider.example/interaction", False, True),
        ("https://provider.example/aXb", False, True),
        ("https://provider.example/login/oauth/authorize/more", False, True),
        ("https://provider.example/account/login_challenge", False, True),
        ("https://provider.example", False, True),
        ("https://xn--bcher-kva.example/login", False, True),
        ("http://provider.example/login/oauth/authorize", False, False),
        ("https://provider.example:444/login/oauth/authorize", False, False),
        ("https://provider.example.evil.example/login/oauth/authorize", False, False),
        ("https://evil.example/https://provider.example/login/oauth/authorize", False, False),
        ("https://provider.example@evil.example/login/oauth/authorize", False, False),
        ("https://login.provider.example/zustimmung/%C3%A4", False, False),
        ("chrome-error://chromewebdata/", False, False),
        ("about:blank", False, False),
        ("data:text/html,x", False, False),
        ("https://[::1", False, False),
        ("", False, False),
    ],
)
def test_an_address_is_the_consent_page_the_providers_or_neither(
    url: str, is_consent: bool, is_of_provider: bool
):
    assert PLACES.is_consent_page(url) is is_consent
    assert PLACES.is_of_provider(url) is is_of_provider


@pytest.mark.parametrize(
    ("url", "is_consent"),
    [
        ("http://provider.example:8080/authorize", True),
        ("https://provider.example/authorize", True),
        ("https://provider.example:8080/authorize", False),
        ("http://provider.example:8080/consent", True),
        ("https://provider.example/consent", True),
        ("https://other.example/authorize", False),
    ],
)
def test_a_provider_may_lead_from_http_to_https(url: str, is_consent: bool):
    rules = ConsentPageRules(consent_buttons=("button",), consent_paths=("/consent",))
    places = ConsentPlaces.from_rules("http://provider.example:8080/authorize?client_id=7", rules)
    assert places.is_consent_page(url) is is_consent


@pytest.mark.parametrize(
    "path", ["/account/login_challenge", "/account/suspended", "/logout", "/tos", "/home"]
)
def test_pages_of_x_that_are_no_consent_are_recognised(path: str):
    page = x_provider(web_url="https://x.com", api_url="https://api.x.com").consent_page
    places = ConsentPlaces.from_rules("https://x.com/i/oauth2/authorize?state=s", page)
    assert places.is_consent_page("https://x.com/i/oauth2/authorize")
    assert places.is_consent_page("https://api.x.com/oauth/authorize?oauth_token=t")
    assert places.is_of_provider(f"https://x.com{path}")
    assert not places.is_consent_page(f"https://x.com{path}")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://user:secret@proxy.example:81/plan?key=secret", "proxy.example:81/plan"),
        ("chrome-error://chromewebdata/", "chrome-error:"),
        ("", "about:"),
    ],
)
def test_a_page_is_named_by_host_and_path(url: str, name: str):
    assert page_name(url) == name
