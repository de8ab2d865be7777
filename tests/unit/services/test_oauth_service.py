"""Authorize URLs with PKCE: RFC 6749, 4.1.1 and RFC 7636."""

import re
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from app.clients.oauth.oauth2 import OAuthProviderClient
from app.config import OAuthApp
from app.services.oauth.provider import ConsentPageRules, OAuthProvider, x_provider
from app.services.oauth.rate_limits import ProviderRateLimits
from app.services.oauth_service import OAuthService, _challenge
from app.utils.exceptions import UnknownApiAppException

APP = OAuthApp(
    client_id="client 1", redirect_uri="http://localhost:8000/callback?x=1", scopes=("a.read", "b")
)
OTHER = OAuthProvider(
    name="Other",
    authorize_url="https://other.example/authorize?tenant=1",
    token_url="https://other.example/token",
    me_url="https://other.example/me",
    username_path="name",
    user_id_path="id",
    default_scopes=("identity", "read"),
    scope_separator=",",
    extra_authorize_params={"duration": "permanent"},
    pkce=False,
    consent_page=ConsentPageRules(consent_buttons=("button",)),
)


@pytest.fixture
def service(http: httpx.AsyncClient) -> OAuthService:
    provider = x_provider(web_url="https://web", api_url="https://api")
    client = OAuthProviderClient(http=http, timeout=1)
    own = {"client_id": "other-id", "redirect_uri": "http://localhost/other", "provider": "other"}
    apps = {
        "AIOTT1": APP,
        "AIOTT2": APP.model_copy(update={"scopes": ()}),
        "OTHER1": OAuthApp(**own),
        "OTHER2": OAuthApp(**own, scopes=("submit",)),
    }
    return OAuthService(
        apps=apps,
        providers={"x": provider, "other": OTHER},
        client=client,
        budgets=ProviderRateLimits(apps=apps),
    )


def test_challenge_is_that_of_the_rfcs_appendix_b():
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert _challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


async def test_the_url_carries_all_that_the_provider_wants(service: OAuthService):
    request = await service.generate_auth_url("AIOTT1")
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


async def test_another_providers_url_is_made_of_its_description(service: OAuthService):
    request = await service.generate_auth_url("OTHER1")
    url = urlsplit(request.url)
    assert f"{url.scheme}://{url.netloc}{url.path}" == "https://other.example/authorize"
    assert {name: value for name, (value,) in parse_qs(url.query).items()} == {
        "tenant": "1",
        "duration": "permanent",
        "response_type": "code",
        "client_id": "other-id",
        "redirect_uri": "http://localhost/other",
        "scope": "identity,read",
        "state": request.state.get_secret_value(),
    }


@pytest.mark.parametrize(
    ("app", "scopes"),
    [
        ("AIOTT1", ("a.read", "b")),
        ("AIOTT2", ("tweet.read", "users.read", "offline.access")),
        ("OTHER1", ("identity", "read")),
        ("OTHER2", ("submit",)),
    ],
)
def test_app_requests_its_own_scopes_or_else_its_providers(
    service: OAuthService, app: str, scopes: tuple[str, ...]
):
    assert service.app(app).scopes == scopes


async def test_url_has_no_scope_where_neither_app_nor_provider_names_one(http: httpx.AsyncClient):
    app = OAuthApp(client_id="id", redirect_uri="http://localhost", provider="other")
    provider = replace(OTHER, default_scopes=())
    service = OAuthService(
        apps={"A": app},
        providers={"other": provider},
        client=OAuthProviderClient(http=http, timeout=1),
        budgets=ProviderRateLimits(apps="A"),
    )
    assert "scope" not in parse_qs(urlsplit((await service.generate_auth_url("A")).url).query)


def test_each_app_has_its_own_providers_page(service: OAuthService):
    assert service.consent_page("OTHER1").consent_buttons == ("button",)
    buttons = ('[data-testid="OAuth_Consent_Button"]', "input#allow")
    assert service.consent_page("AIOTT1").consent_buttons == buttons


async def test_the_verifier_is_as_long_and_spelt_as_the_rfc_says(service: OAuthService):
    verifier = (await service.generate_auth_url("AIOTT1")).code_verifier.get_secret_value()
    assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier)


async def test_state_and_verifier_are_new_each_time(service: OAuthService):
    requests = [await service.generate_auth_url("AIOTT1") for _ in range(20)]
    assert len({request.state.get_secret_value() for request in requests}) == 20
    assert len({request.code_verifier.get_secret_value() for request in requests}) == 20


async def test_unknown_app_is_refused_with_the_known_ones(service: OAuthService):
    known = "'NOPE'; the configured ones are: AIOTT1, AIOTT2, OTHER1, OTHER2"
    for call in (service.app, service.consent_page):
        with pytest.raises(UnknownApiAppException, match=known):
            call("NOPE")
    with pytest.raises(UnknownApiAppException, match=known):
        await service.generate_auth_url("NOPE")


async def test_a_request_shows_neither_state_nor_verifier(service: OAuthService):
    request = await service.generate_auth_url("AIOTT1")
    shown = repr((request.state, request.code_verifier))
    assert request.state.get_secret_value() not in shown
    assert request.code_verifier.get_secret_value() not in shown
