"""The accounts' tokens: the providers, the vault, and what keeps tokens fresh."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import httpx

from app.clients.oauth.oauth2 import OAuthProviderClient
from app.config import Settings
from app.database import Database
from app.services.oauth.app_state import AppStates
from app.services.oauth.provider_file import load_providers
from app.services.oauth.rate_limits import ProviderRateLimits
from app.services.oauth_service import OAuthService
from app.services.tokens.refresh_leases import RefreshLeases, RefreshTimes
from app.services.tokens.refresher import TokenRefresher
from app.services.tokens.service import CredentialService
from app.services.tokens.spill import TokenSpill
from app.services.tokens.vault import CredentialVault

_FRESH_FOR: Final = 30.0
"""Seconds that a token lives at least when it is handed out."""


@dataclass(frozen=True)
class Tokens:
    oauth: OAuthService
    apps: AppStates
    budgets: ProviderRateLimits
    vault: CredentialVault
    leases: RefreshLeases
    refresher: TokenRefresher
    credentials: CredentialService


def build_tokens(
    settings: Settings, database: Database, http: httpx.AsyncClient, owner: str, stack: AsyncExitStack
) -> Tokens:
    budgets = ProviderRateLimits(apps=settings.oauth_apps)
    oauth = OAuthService(
        apps=settings.oauth_apps,
        providers=load_providers(settings),
        client=OAuthProviderClient(http=http, timeout=settings.oauth_api_timeout),
        budgets=budgets,
    )
    apps = AppStates(settings.oauth_apps.keys(), pause_after=settings.app_pause_after)
    vault = CredentialVault(key_ring=settings.key_ring)
    times = RefreshTimes(
        lease=settings.oauth_api_timeout + settings.lease_seconds,
        margin=settings.refresh_margin,
        jitter=settings.refresh_jitter,
        retry=settings.refresh_retry_wait,
        min_interval=settings.refresh_min_interval,
    )
    leases = RefreshLeases(
        database=database,
        vault=vault,
        apps=apps,
        budgets=budgets,
        times=times,
        default_life=oauth.default_token_life,
        owner=owner,
    )
    refresher = TokenRefresher(
        database=database,
        leases=leases,
        oauth=oauth,
        apps=apps,
        budgets=budgets,
        spill=TokenSpill(folder=settings.token_spill_folder, key_ring=settings.key_ring),
        save_for=settings.lease_seconds,
    )
    stack.push_async_callback(refresher.wait_for_running)
    credentials = CredentialService(
        database=database,
        vault=vault,
        leases=leases,
        refresher=refresher,
        oauth=oauth,
        fresh_for=_FRESH_FOR,
        wait_for=times.lease + settings.oauth_api_timeout,
    )
    stack.push_async_callback(credentials.close)
    return Tokens(oauth, apps, budgets, vault, leases, refresher, credentials)
