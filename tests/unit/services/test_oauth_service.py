"""Authorize URLs with PKCE: RFC 6749, 4.1.1 and RFC 7636."""

import re
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from app.clients.oauth_provider import OAuthProviderClient
from app.config import OAuthApp
from app.services.oauth_service import OAuthService, _challenge
from app.services.providers import x_provider
from app.utils.exceptions import UnknownApiAppException

APP = OAuthApp(
    client_id="client 1", redirect_uri="http://localhost:8000/callback?x=1", scopes=("a.read", "b")
)


@pytest.fixture
def service(http: httpx.AsyncClient) -> OAuthService:
    provider = x_provider(web_url="https://web", api_url="https://api")
    client = OAuthProviderClient(http=http, token_url="", revoke_url="", me_url="", timeout=1)
    return OAuthService(apps={"AIOTT1": APP, "AIOTT2": APP}, provider=provider, client=client)


def test_the_challenge_of_the_rfcs_appendix_b():
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert _challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_the_url_carries_all_that_the_provider_wants(service: OAuthService):
    request = service.generate_auth_url("AIOTT1")
    verifier = request.code_verifier.get_secret_value()
    url = urlsplit(request.url)
    assert f"{url.scheme}://{url.netloc}{url.path}" == "https://web/i/oauth2/authorize"
    assert {name: value for name, (value,) in parse_qs(url.query).items()} == {
        "response_type": "code",
        "client_id": "client 1",
        "redirect_uri": APP.redirect_uri,
        "scope": "a.read b",
        "state": request.state.get_secret_value(),
        "code_challenge": create_s256_code_challenge(verifier),
        "code_challenge_method": "S256",
    }
    assert request.redirect_uri == APP.redirect_uri
    assert verifier not in request.url


def test_the_verifier_is_as_long_and_spelt_as_the_rfc_says(service: OAuthService):
    verifier = service.generate_auth_url("AIOTT1").code_verifier.get_secret_value()
    assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier)


def test_state_and_verifier_are_new_each_time(service: OAuthService):
    requests = [service.generate_auth_url("AIOTT1") for _ in range(20)]
    assert len({request.state.get_secret_value() for request in requests}) == 20
    assert len({request.code_verifier.get_secret_value() for request in requests}) == 20


def test_an_unknown_app_is_told_with_those_that_exist(service: OAuthService):
    for call in (service.app, service.consent_page, service.generate_auth_url):
        with pytest.raises(UnknownApiAppException, match="'NOPE'; the configured ones are: AIOTT1, AIOTT2"):
            call("NOPE")


def test_a_request_shows_neither_state_nor_verifier(service: OAuthService):
    request = service.generate_auth_url("AIOTT1")
    shown = repr((request.state, request.code_verifier))
    assert request.state.get_secret_value() not in shown
    assert request.code_verifier.get_secret_value() not in shown
