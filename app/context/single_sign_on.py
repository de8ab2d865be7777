"""Single sign-on of operators at the provider of the settings."""

from typing import TYPE_CHECKING

import httpx

from app.config import Settings
from app.database import Database
from app.services.keys.people import People

if TYPE_CHECKING:
    from app.services.keys.single_sign_on import SingleSignOn


def build_single_sign_on(
    settings: Settings, database: Database, http: httpx.AsyncClient, people: People | None
) -> "SingleSignOn | None":
    """Return None without it."""
    if people is None or not settings.dashboard_enabled:
        return None
    # Authlib takes 0.1 s to import, which most services and commands have no use for.
    from app.clients.openid.provider import OpenIdProvider  # noqa: PLC0415
    from app.services.keys.single_sign_on import SingleSignOn  # noqa: PLC0415

    assert settings.oidc_issuer is not None
    assert settings.oidc_client_id is not None
    assert settings.oidc_redirect_uri is not None
    provider = OpenIdProvider(
        http=http,
        issuer=settings.oidc_issuer,
        client_id=settings.oidc_client_id,
        client_secret=settings.oidc_client_secret,
        redirect_uri=settings.oidc_redirect_uri,
        scopes=settings.oidc_scopes,
        timeout=settings.oauth_api_timeout,
    )
    return SingleSignOn(database=database, provider=provider, people=people)
