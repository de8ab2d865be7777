"""The seams: what a test may replace, and the values that pass between the services."""

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Protocol

from pydantic import SecretStr

from app.clients.oauth.oauth2 import ProviderUser
from app.config import OAuthApp
from app.models import ConsentMode, SessionStage, utc_now
from app.services.oauth.provider import ConsentPageRules

StageReporter = Callable[[SessionStage], None]
"""Called when a stage is reached; may be called from any thread, returns at once."""


@dataclass(frozen=True)
class RunningBrowser:
    """A profile's browser that is up and answers."""

    profile_id: str
    address: str
    """The debugger address, host:port."""
    ws_url: str
    major: int
    """Chromium's major version; the driver's must be the same."""


@dataclass(frozen=True)
class AuthorizationRequest:
    """One visit to the provider's authorize endpoint, with what only we know of it."""

    url: str
    redirect_uri: str
    state: SecretStr
    """The callback must name it (RFC 6749, 10.12); of OAuth 1.0a it is the request token (RFC 5849, 2.2)."""
    code_verifier: SecretStr | None = None
    """RFC 7636, 4.1; it belongs to this one visit. None: the provider does without."""
    request_token_secret: SecretStr | None = None
    """OAuth 1.0a only."""
    issuer: str = ""
    """The callback must name it (RFC 9207); empty: the provider is not known to send it."""


@dataclass(frozen=True)
class TokenSet:
    """Tokens as the provider issued them."""

    access_token: SecretStr
    refresh_token: SecretStr | None
    scopes: tuple[str, ...]
    """Granted."""
    expires_in: int | None
    """Seconds."""
    oauth_token_secret: SecretStr | None = None
    """OAuth 1.0a only."""


@dataclass(frozen=True)
class AuthorizationJob:
    """A session that this process has claimed."""

    session_id: str
    profile_id: str
    account_id: str
    api_app: str
    request_id: str
    lease_token: str
    timeout_seconds: float | None = None
    """The caller's own deadline for the attempt."""
    stage_timeouts: Mapping[str, float] = field(default_factory=dict)
    """The caller's own deadlines of single steps, seconds, by the names of `BrowserTimeouts`."""
    attempt: int = 1
    consent: ConsentMode = ConsentMode.AUTOMATIC
    awaits_person: bool = False
    scopes: tuple[str, ...] = ()
    """Asked for."""
    started_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True)
class BrowserTimeouts:
    """Seconds."""

    attach: float
    page_load: float
    consent_button: float
    callback: float
    person: float = 900.0
    """Seconds for a person to act in the profile's window."""

    def cap(self, ceilings: Mapping[str, float]) -> "BrowserTimeouts":
        """Each as asked for, at most as long as here; other names are left alone."""
        values = asdict(self)
        return replace(
            self, **{name: min(values[name], ceilings[name]) for name in values.keys() & ceilings.keys()}
        )


@dataclass(frozen=True)
class PageEvidence:
    """Page of the browser when an attempt failed; secrets are masked, every text is cut."""

    url: str
    """Scheme, host and path."""
    title: str
    test_ids: tuple[str, ...]
    """`data-testid` of the visible elements."""
    console: tuple[str, ...]
    """Errors of the page's console, the latest last."""
    screenshot: bytes | None
    """JPEG."""


class AttemptSink(Protocol):
    """Takes the results of one attempt while it runs."""

    def report_stage(self, stage: SessionStage) -> None:
        """Note that a stage is reached. May be called from any thread, returns at once."""

    def keep_evidence(self, evidence: PageEvidence) -> None:
        """Keep what the browser showed. Called from the browser thread at most once, before it ends."""

    async def store_tokens(self, user: ProviderUser, tokens: TokenSet) -> None:
        """Store the account's tokens.

        Raises `DatabaseUnavailableException` when it is not known whether they are stored. After any other error they
        are not, and the caller revokes them.
        """


@dataclass
class ConsentRequest:
    """Everything that the browser thread needs for one consent."""

    browser: RunningBrowser
    driver_url: str
    account_id: str
    authorization: AuthorizationRequest
    page: ConsentPageRules
    sink: AttemptSink
    timeouts: BrowserTimeouts
    deadline: float = math.inf
    """Deadline of the whole attempt, by `time.monotonic`; every wait ends by then."""
    timeout: float = math.inf
    """Seconds that the whole attempt has: what `deadline` came from."""
    is_attended: bool = False
    """A person presses Authorize, not we."""
    awaits_person: bool = False
    """A page that asks for a person is waited for."""
    session_id: str = ""
    person: threading.Event = field(default_factory=threading.Event)
    """Set while a person has something to do in the browser."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for the result any more; looked at between steps."""


class GoLoginServiceProtocol(Protocol):
    def running_profile(
        self, profile_id: str, *, report: StageReporter, start_timeout: float | None = None
    ) -> AbstractAsyncContextManager[RunningBrowser]: ...

    async def close_browser(self, browser: RunningBrowser) -> bool: ...


class ConsentTabProtocol(Protocol):
    def click_authorize_button(self) -> None: ...

    def extract_oauth_code(self) -> SecretStr: ...


class BrowserControllerProtocol(Protocol):
    def connect_to_profile(self, request: ConsentRequest) -> AbstractContextManager[ConsentTabProtocol]: ...


class OAuthServiceProtocol(Protocol):
    def app(self, api_app: str) -> OAuthApp: ...

    def consent_page(self, api_app: str) -> ConsentPageRules: ...

    def handle_problem(self, api_app: str, handle: str) -> str | None: ...

    async def generate_auth_url(self, api_app: str) -> AuthorizationRequest: ...

    async def exchange_code_for_tokens(
        self, api_app: str, *, code: SecretStr, authorization: AuthorizationRequest
    ) -> TokenSet: ...

    async def refresh_access_token(self, api_app: str, refresh_token: SecretStr) -> TokenSet: ...

    async def verify_credentials(
        self,
        api_app: str,
        access_token: SecretStr,
        oauth_token_secret: SecretStr | None = None,
        *,
        is_new: bool = False,
    ) -> ProviderUser: ...

    async def revoke_token(
        self, api_app: str, token: SecretStr, oauth_token_secret: SecretStr | None = None
    ) -> None: ...
