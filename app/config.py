"""The settings, read from the environment and `.env`."""

import json
import os
import re
import socket
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import Url
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.utils.crypto import KEY_ID, KeyRing, decode_key
from app.utils.cursors import Cursors
from app.utils.hosts import is_loopback
from app.utils.masking import know_secrets

PLACEHOLDER: Final = "change-me"
"""Value of `.env.example` in the place of a secret; it starts in development only."""

_DEVELOPMENT_KEY: Final = "b25seS1mb3ItZGV2ZWxvcG1lbnQtbmV2ZXItbGl2ZSE="
"""The encryption key of `.env.example`: a real key of 32 bytes that everybody knows."""

_MIN_KEY_LENGTH: Final = 16
_MIN_SECRET_LENGTH: Final = 32
_ENCODED: Final = "write other characters than letters and digits in its user and password as %XX"
OIDC_CALLBACK_PATH: Final = "/ui/sign-in/callback"
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")

_REPLACED: Final = {
    f"EVENT_RETENTION_{unit}": " and ".join(
        f"EVENT_{name}_RETENTION_{unit}" for name in ("AUDIT", "LIFECYCLE", "ROUTINE")
    )
    for unit in ("DAYS", "COUNT")
}
"""Settings of earlier versions, and their successors."""
_OUR_PREFIXES: Final = (
    "GOLOGIN_",
    "OAUTH_",
    "ENCRYPTION_",
    "AUTHORIZATION_",
    "CONSENT_",
    "EVENT_",
    "EVIDENCE_",
    "DASHBOARD_",
    "DATABASE_",
    "CLEANUP_",
    "PROFILE_",
    "PROVIDERS_",
    "ALARM_",
    "ATTENDED_",
    "BATCH_",
    "CORS_",
    "OIDC_",
    "TRUSTED_",
    "REFRESH_",
    "REPAIR_",
    "TOKEN_",
    "RATE_LIMIT_",
    "AUTH_FAILURES_",
    "WEBHOOK_",
)
"""Environment variables that start so are meant for this service: an unknown one is a misspelling."""

PositiveSeconds = Annotated[float, Field(gt=0)]


class Environment(StrEnum):
    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class ProcessRole(StrEnum):
    """Work of a process; it decides how many connections the process may open to PostgreSQL."""

    SERVICE = "service"
    """The API and the workers."""
    API = "api"
    WORKER = "worker"
    COMMAND = "command"

    @property
    def has_workers(self) -> bool:
        return self in (ProcessRole.SERVICE, ProcessRole.WORKER)

    @property
    def queue_connections(self) -> int:
        """Connections to PostgreSQL beside the pool: the job queue's, one of which listens."""
        return 2 if self.has_workers else 0


_POOL_SIZES: Final = {
    ProcessRole.SERVICE: 10,
    ProcessRole.API: 10,
    ProcessRole.WORKER: 4,
    ProcessRole.COMMAND: 4,
}
_SQLITE_POOL_SIZE: Final = 20
"""Size of the pool on SQLite, whose connections no server counts."""


class OAuthApp(BaseModel):
    """One registered OAuth client. Without `client_secret` it is a public client (RFC 6749, 2.1)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["oauth2", "oauth1"] = "oauth2"
    """``oauth1``: OAuth 1.0a (RFC 5849); its access tokens come with a secret and do not expire."""
    client_id: str = Field(min_length=1)
    client_secret: SecretStr | None = None
    redirect_uri: str = Field(pattern=r"^https?://[^/?#]+")
    """Exactly as registered: providers compare it to the letter."""
    scopes: tuple[str, ...] = ()
    """Empty: the provider's default."""
    provider: str = "x"
    """X, or one of `Settings.providers_file`."""
    consent: Literal["automatic", "attended"] | None = None
    """Consent mode; None: that of the setting `consent_mode`."""

    @field_validator("redirect_uri")
    @classmethod
    def _browsers_can_open_it(cls, value: str) -> str:
        """Refuse an address that browsers cannot open: its callback would never be recognised."""
        try:
            Url(value)
        except ValueError as error:
            raise ValueError("no browser can open this address; mend its host or port") from error
        return value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "oauth1" and not self.client_secret:
            raise ValueError("an app of kind oauth1 needs its client_secret: every call is signed with it")
        if self.kind == "oauth1" and self.scopes:
            raise ValueError(
                "an app of kind oauth1 has no scopes: what it may do is set at the provider; leave them out"
            )
        return self


class PersonRights(BaseModel):
    """Rights of people with one value of the claim `Settings.oidc_claim`, as an API key has them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scopes: tuple[str, ...] = Field(min_length=1)
    api_apps: tuple[str, ...] = ()
    """Empty: all."""
    account_patterns: tuple[str, ...] = ()
    """Handles with ``*`` for any characters; empty: all."""


class Settings(BaseSettings):
    """All settings. The docstring of a field is its description in `.env.example` and `docs/settings.md`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8-sig",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    environment: Environment = Environment.DEVELOPMENT
    """Environment of the service. Outside development it refuses to start with the placeholders of
    `.env.example`."""
    host: str = "127.0.0.1"
    """Address on which the API listens; 0.0.0.0 for all interfaces."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port of the API. 0: a free one; the log says which."""
    serve_workers: bool = True
    """`serve` also runs the workers. False: it answers the API only and leaves the work to `python -m
    app worker` processes; needs PostgreSQL."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level that is logged."""

    api_key: SecretStr = SecretStr(PLACEHOLDER)
    """The bootstrap API key, with all scopes; at least 16 characters. Make one: `python -c "import secrets;
    print(secrets.token_urlsafe(32))"`."""
    encryption_keys: SecretStr = SecretStr(f"dev:{_DEVELOPMENT_KEY}")
    """Keys that encrypt stored tokens and webhook secrets, as `id:key,id:key`: the first encrypts, all decrypt.
    Make one: `python -m app secrets generate`. The default is public: for development only."""

    rate_limit_per_minute: int = Field(default=100, ge=1)
    """Requests of one API key in any minute, unless the key has its own limit; more answer 429."""
    rate_limit_storage: SecretStr = SecretStr("memory://")
    """Storage of the counts of requests. `memory://` counts in each process; `redis://:password@host:6379/0` (or
    `rediss://`) for all processes together."""
    auth_failures_per_minute: int = Field(default=30, ge=1, le=1000)
    """Requests without a valid key of one client address in any minute, per process; more answer 429. A valid
    key is always accepted."""
    max_body_bytes: int = Field(default=64 * 1024, ge=1024)
    """Size limit of a request body, in bytes; a larger one answers 413."""
    max_batch_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    """Size limit of the body of a batch, in bytes."""
    max_batch_rows: int = Field(default=10_000, ge=1)
    """Rows of one batch at most."""
    max_wait: PositiveSeconds = 60.0
    """Longest `Prefer: wait=…` that is honoured, in seconds."""
    client_stall_timeout: PositiveSeconds = 30.0
    """Seconds after which a client is cut off that takes nothing of its answer, or needs longer to send the
    head of a request, or its body at less than 1 KiB a second (408)."""
    keep_alive_seconds: int = Field(default=75, ge=1)
    """Seconds that an idle connection stays open. Choose more than a proxy in front uses for its own
    connections; else a call meets a connection that was just closed (502)."""
    docs_enabled: bool | None = Field(default=None, examples=[True])
    """The pages /docs, /redoc and /openapi.json are served. Unset: in development only."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the API from a browser, as JSON: `["https://tools.example.com"]`.
    Empty: none."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Networks of the proxies whose X-Forwarded-For is trusted, as JSON: `["10.0.0.0/8"]`. Empty: none, the
    peer is the caller."""
    event_stream_readers: int = Field(default=200, ge=1)
    """Event streams that one process serves at once; more answer 429."""
    event_stream_readers_per_key: int = Field(default=20, ge=1)
    """Event streams of one API key in one process at once; more answer 429."""
    event_stream_lifetime: PositiveSeconds = 3_600.0
    """Seconds after which an event stream ends; its client connects again."""
    event_stream_heartbeat: PositiveSeconds = 15.0
    """Seconds without an event after which a stream sends a comment. At the same interval the service checks
    that the stream's key may still read."""
    event_exports: int = Field(default=8, ge=1)
    """Event exports that one process serves at once; more answer 429."""
    event_exports_per_key: int = Field(default=2, ge=1)
    """Event exports of one API key in one process at once; more answer 429."""
    event_export_lifetime: PositiveSeconds = 3_600.0
    """Seconds after which an unfinished export is broken off."""

    dashboard_enabled: bool = True
    """The operators' page is served at /ui."""
    dashboard_idle_timeout: float = Field(default=3_600.0, ge=120)
    """Seconds without a request after which a sign-in to the operators' page ends."""
    dashboard_session_lifetime: float = Field(default=43_200.0, ge=120)
    """Seconds after which a sign-in to the operators' page ends in any case."""

    oidc_issuer: str | None = Field(
        default=None, min_length=1, max_length=255, examples=["https://login.example.com/realms/team"]
    )
    """Issuer of the OpenID Connect provider at which operators sign in to the page, exactly as its discovery document
    has it; see docs/dashboard.md. It needs OIDC_CLIENT_ID, OIDC_REDIRECT_URI and OIDC_RIGHTS, too. Unset: no single
    sign-on."""
    oidc_name: str = Field(default="single sign-on", min_length=1, max_length=40)
    """Name of the provider on the button "Sign in with …"."""
    oidc_client_id: str | None = Field(default=None, min_length=1, examples=[PLACEHOLDER])
    """Client id of this service at the provider."""
    oidc_client_secret: SecretStr | None = Field(default=None, min_length=1, examples=[PLACEHOLDER])
    """Client secret. Unset: a public client; PKCE is used in any case."""
    oidc_redirect_uri: str | None = Field(
        default=None, examples=["https://gologin.example.com/ui/sign-in/callback"]
    )
    """Address of the page's callback as browsers reach it, exactly as registered at the provider."""
    oidc_scopes: tuple[str, ...] = ("openid", "profile", "email")
    """Scopes that the provider is asked for, as JSON; `openid` is one of them."""
    oidc_claim: str = Field(default="groups", min_length=1, max_length=200)
    """Claim of the ID token with a person's roles or groups, a text or a list of texts; dots lead into objects
    (`realm_access.roles`)."""
    oidc_rights: dict[str, PersonRights] | None = Field(
        default=None,
        examples=[
            {
                "gologin-admins": {"scopes": ["admin"]},
                "gologin-helpers": {
                    "scopes": ["sessions:read", "evidence", "control"],
                    "api_apps": ["AIOTT1"],
                },
            }
        ],
    )
    """Rights by value of OIDC_CLAIM, as JSON on one line: `scopes` and, if they are restricted, `api_apps` and
    `account_patterns`, as keys have them. The first value that a person has counts; a person with none of them is
    refused."""

    dashboard_live_viewers: int = Field(default=50, ge=1)
    """Live views of browsers that one process serves on the operators' page at once; more are refused."""
    internal_host: str = "127.0.0.1"
    """Address at which a process that runs browsers serves their live views to the other processes of the service, over
    TLS; it must be one that they reach (0.0.0.0: all interfaces, reached by the machine's host name). The default is
    enough while all processes run on one machine."""
    internal_port: int = Field(default=0, ge=0, le=65535)
    """Port of the internal address. 0: a free one, which the other processes find in the database."""
    internal_secret: SecretStr | None = Field(default=None, examples=[PLACEHOLDER])
    """Secret with which the processes of the service know each other at internal addresses, the same for all, of at
    least 32 characters. It must be set when INTERNAL_HOST is not this machine's own (127.0.0.1). Unset: one is derived
    from ENCRYPTION_KEYS."""

    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///data/gologin.db")
    """The database: SQLite (a file, one process), or `postgresql+psycopg://user:password@host:5432/name`. In
    the password write characters other than letters and digits as %XX."""
    database_direct_url: SecretStr | None = Field(
        default=None, examples=["postgresql+psycopg://user:password@host:5432/name"]
    )
    """Set it when DATABASE_URL leads to PgBouncer in transaction mode: the URL of PostgreSQL itself, for the
    connection on which each process with workers listens, and for migrations."""
    database_pool_size: int | None = Field(default=None, ge=1, examples=[10])
    """Database connections of one process at most; one with workers has two more for the queue. Unset: 10 with
    the API, 4 of `worker`; 20 with SQLite."""
    postgres_password: SecretStr = SecretStr("")
    """Password of the PostgreSQL that docker-compose.yml starts (letters and digits); only that file reads
    it."""

    profile_browser: Literal["gologin", "adspower"] = "gologin"
    """The program that holds the profiles."""
    gologin_api_url: str = "https://api.gologin.com"
    """GoLogin's cloud API, where profiles are listed."""
    gologin_api_token: SecretStr = SecretStr(PLACEHOLDER)
    """Token of the cloud API, from GoLogin's settings page (API)."""
    gologin_api_timeout: PositiveSeconds = 20.0
    """Timeout of one call of the cloud API, in seconds; it answers within a few seconds or not at all."""
    gologin_requests_per_minute: int = Field(default=200, ge=1)
    """Calls of the cloud API in any minute, over all processes. GoLogin allows 300 (free) or 1,200 (paid), and
    revokes the token for good on one call too many: stay well below."""
    gologin_local_url: str = "http://localhost:36912"
    """The GoLogin desktop app on this machine, which starts and stops profiles; it must be running and signed
    in."""
    profile_start_timeout: PositiveSeconds = 60.0
    """Timeout of a profile's start, in seconds; GoLogin takes 5 to 60."""
    profile_starts_at_once: int | None = Field(default=None, ge=1, examples=[3])
    """Profiles that one process starts at once; the others wait (stage `waiting_for_slot`), and fewer start while the
    machine is busy. 1 to 3 fits GoLogin's desktop app. Unset: one more than the machine has cores."""
    profile_stop_timeout: PositiveSeconds = 20.0
    """Timeout of a profile's stop, in seconds; it waits until the browser has saved the profile."""
    max_concurrent_profiles: int = Field(default=10, ge=1)
    """Profiles that run on this machine at once; about two browsers for each core is right."""
    fleet_max_running_profiles: int | None = Field(default=None, ge=1, examples=[30])
    """Profiles that run on all machines together at once, as your plan allows. Unset: no such limit."""
    attended_max_running: int = Field(default=2, ge=1)
    """Sessions with a person at the window that run at once, on all machines together: each holds its slot for
    minutes. With SQLite one slot is kept for the other sessions."""
    profile_rule: Literal["name", "notes", "tag", "none"] = "name"
    """Place of a profile's account, unless it is linked by hand: its name, its notes, a tag, or
    nowhere."""
    profile_rule_pattern: str = r"^@?(?P<account>[A-Za-z0-9_]{1,15})$"
    """Regular expression that is searched there. Its group `account` is the handle; a group `app`, if there is
    one, is the OAuth app that the profile is for."""
    adspower_url: str = "http://local.adspower.net:50325"
    """The AdsPower app on this machine; only for PROFILE_BROWSER=adspower."""
    browser_hosts: tuple[str, ...] = ()
    """Hosts on which profiles' browsers may run besides this one and that of the local API, as JSON. Other
    hosts are not called."""

    oauth_apps: dict[str, OAuthApp] = Field(
        default={},
        examples=[
            {
                "AIOTT1": {
                    "client_id": PLACEHOLDER,
                    "client_secret": PLACEHOLDER,
                    "redirect_uri": "http://localhost:8000/callback",
                    "scopes": ["tweet.read", "users.read", "offline.access"],
                }
            }
        ],
    )
    """OAuth apps by the name that callers send as api_app, as JSON on one line. Without client_secret: a public
    client. redirect_uri must be exactly the one registered at the provider; nothing needs to listen there.
    `provider` names a provider of PROVIDERS_FILE, else X. `"kind": "oauth1"` is OAuth 1.0a, with the consumer
    key and secret as client_id and client_secret, and no scopes. `consent` overrides CONSENT_MODE."""
    providers_file: Path | None = Field(default=None, examples=["providers.toml"])
    """TOML file with OAuth providers besides X; see docs/providers.md and providers.example.toml. Unset: X
    only."""
    x_web_url: str = "https://x.com"
    """Address of X's consent page."""
    x_api_url: str = "https://api.x.com"
    """Address of X's API: it exchanges codes and tells whom a token belongs to."""
    oauth_api_timeout: PositiveSeconds = 15.0
    """Timeout of one call of a provider's API, in seconds; short, because a browser waits during the
    exchange."""

    consent_mode: Literal["automatic", "attended"] = "automatic"
    """Actor who presses Authorize: automatic (the service) or attended (a person, in the profile's window). An app of
    OAUTH_APPS and a request may override it (`consent`)."""
    authorization_timeout: PositiveSeconds = 120.0
    """Seconds from the running profile to the stored tokens; the profile's start has its own timeout."""
    attended_timeout: PositiveSeconds = 900.0
    """Additional seconds for a person in the profile's window, in attended and in resumed sessions."""
    browser_attach_timeout: PositiveSeconds = 20.0
    """Seconds until the driver must be attached to the profile's browser."""
    page_load_timeout: PositiveSeconds = 30.0
    """Seconds until the consent page must have loaded."""
    consent_button_timeout: PositiveSeconds = 10.0
    """Seconds until the consent button must be pressable."""
    callback_timeout: PositiveSeconds = 30.0
    """Seconds from the click to the redirect."""
    chromedriver_path: Path | None = Field(default=None, examples=["/usr/bin/chromedriver"])
    """The chromedriver to use. Unset: the one on PATH if it fits the browser, else Selenium's own download."""

    session_lifetime: PositiveSeconds = 86_400.0
    """Seconds that a session may wait for its start; then it ends as timeout."""
    session_max_running: PositiveSeconds = 7_200.0
    """Seconds that a session may run; then the hourly cleanup ends it as timeout. At least
    PROFILE_START_TIMEOUT, AUTHORIZATION_TIMEOUT and ATTENDED_TIMEOUT together."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts of one session at transient failures (profile start, browser crash, the provider's 5xx,
    timeouts, a crash of the service)."""
    retry_wait: PositiveSeconds = 15.0
    """Seconds before the second attempt; doubled with each further one, up to 15 minutes."""
    max_waiting: int = Field(default=50_000, ge=1)
    """Waiting sessions at which a POST answers 429."""
    app_pause_after: int = Field(default=5, ge=1)
    """Failures in a row by an OAuth app's own fault after which it is paused until an operator resumes it."""
    batch_max_running: int = Field(default=10, ge=1)
    """Sessions of one batch that run at once, unless the batch has its own limit."""
    batch_stop_percent: int = Field(default=50, ge=0, le=100)
    """A batch stops when more than this percentage of its last BATCH_STOP_WINDOW sessions failed. 100:
    never."""
    batch_stop_window: int = Field(default=20, ge=1)
    """Ended sessions of a batch over which failures are counted."""
    lease_seconds: PositiveSeconds = 20.0
    """Seconds after which a claim that is not renewed belongs to a dead process."""
    foreign_lease_grace: PositiveSeconds = 600.0
    """Seconds after which a profile is taken over whose lease another machine let expire: only that machine
    could stop its browser."""
    machine_name: str = Field(
        default_factory=socket.gethostname, min_length=1, max_length=64, examples=["worker-1"]
    )
    """Name of this machine in leases. Unset: its host name. Set it where the host name changes with each start
    (containers)."""
    shutdown_grace: PositiveSeconds = 30.0
    """Seconds from SIGTERM to the exit: running authorizations may end, then their browsers are stopped."""

    refresh_margin: PositiveSeconds = 900.0
    """Seconds before its expiry at which a token is refreshed; never in the first half of its life."""
    refresh_jitter: PositiveSeconds = 1_800.0
    """Seconds, at most, by which a refresh starts earlier, at random, so that many tokens are not due
    together."""
    refresh_concurrency: int = Field(default=50, ge=1)
    """Accounts that one process refreshes at once."""
    refresh_retry_wait: PositiveSeconds = 30.0
    """Seconds before a failed refresh is tried again; doubled with each further one, up to an hour."""
    refresh_min_interval: PositiveSeconds = 60.0
    """Seconds between two refreshes of one account, however short the lifetimes are that its provider names. A
    refresh by request (POST /accounts/{account_id}/refresh) does not wait for it."""
    token_spill_folder: Path = Path("data/spilled-tokens")
    """Folder for new tokens, encrypted, while the database cannot store them; on a disk that survives a
    restart."""
    repair_apps: list[str] | None = Field(default=None, examples=[["AIOTT1"]])
    """OAuth apps whose accounts are authorized again automatically, as JSON: when their chain of refresh tokens
    breaks, or when a caller asks for a token that has expired and has no refresh token. Unset: all apps. Empty:
    none."""
    repair_per_day: int = Field(default=3, ge=0)
    """Such sessions for one account and app within 24 hours."""
    repair_at_once: int = Field(default=5, ge=1)
    """Such sessions of all accounts at once."""
    repair_interval: PositiveSeconds = 15.0
    """Seconds between two searches for broken accounts."""

    webhook_allow_private_addresses: bool = False
    """Webhooks may lead to private, loopback and link-local addresses, and use plain http: for
    receivers inside your own network."""
    webhook_max_endpoints: int = Field(default=50, ge=1, le=1_000)
    """Webhooks that can exist. Each has its own connections, so that none delays another."""
    webhook_timeout: PositiveSeconds = 10.0
    """Timeout of one delivery attempt, in seconds, from the name look-up to the answer."""
    webhook_concurrency: int = Field(default=4, ge=1, le=100)
    """Deliveries to one webhook at once, in each process."""
    webhook_retry_waits: list[PositiveSeconds] = [5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800]
    """Seconds before the second attempt, the third and so on, as JSON; after the last one the delivery is
    parked. The default makes a day."""
    webhook_pause_after_hours: float = Field(default=12, gt=0)
    """Hours of nothing but failures after which a webhook is paused; less than a day, so that little is
    parked."""
    webhook_retention_days: int = Field(default=30, ge=1)
    """Days after which finished deliveries are deleted with their attempts."""

    sync_interval: PositiveSeconds = 900.0
    """Seconds between two syncs of GoLogin's profile list."""
    sync_retry_interval: PositiveSeconds = 60.0
    """Seconds until the next sync after one that failed."""
    cleanup_interval: PositiveSeconds = 3_600.0
    """Seconds between two cleanups: stuck sessions, retention."""
    monitor_interval: PositiveSeconds = 60.0
    """Seconds between two lines `monitor.snapshot`, and between two checks of the alarms."""
    session_retention_days: int = Field(default=90, ge=1)
    """Days after which ended sessions, batches and syncs are deleted."""
    event_audit_retention_days: int = Field(default=400, ge=1)
    """Days after which events of the class audit are deleted: token reads, keys, exports, changes by people and keys.
    On PostgreSQL whole months are deleted."""
    event_audit_retention_count: int = Field(default=50_000_000, ge=1)
    """Events of the class audit that are kept; above it the oldest are deleted."""
    event_lifecycle_retention_days: int = Field(default=90, ge=1)
    """Days after which events of the class lifecycle are deleted: sessions, batches, credentials, alarms; also
    the hourly counts of routine events. On PostgreSQL whole months are deleted."""
    event_lifecycle_retention_count: int = Field(default=10_000_000, ge=1)
    """Events of the class lifecycle that are kept; above it the oldest are deleted."""
    event_routine_retention_days: int = Field(default=7, ge=1)
    """Days after which events of the class routine are deleted: refreshes, stages, starts, releases, syncs."""
    event_routine_retention_count: int = Field(default=5_000_000, ge=1)
    """Events of the class routine that are kept; above it the oldest are deleted."""
    fleet_history_minute_days: int = Field(default=7, ge=1)
    """Days for which the fleet's numbers are kept by the minute (GET /fleet/history, charts of the operators' page);
    then the cleanup sums them up by the hour."""
    fleet_history_hour_days: int = Field(default=90, ge=1)
    """Days after which the fleet's numbers by the hour are deleted."""
    evidence_retention_days: int = Field(default=14, ge=1)
    """Days after which evidence of failed attempts is deleted; it is also deleted with its session."""
    evidence_max_screenshot_bytes: int = Field(default=500_000, ge=0)
    """Size limit of a screenshot, in bytes; a larger one is taken at a lower quality, or not kept. 0: none is
    kept."""
    evidence_max_total_mb: int = Field(default=1024, ge=1)
    """Megabytes of evidence in total; above it the cleanup deletes the oldest."""
    alarm_waiting_seconds: PositiveSeconds = 900.0
    """Alarm when the oldest waiting session waits for more than this many seconds."""
    alarm_pending: int = Field(default=1000, ge=1)
    """Alarm when more than this many sessions wait."""
    alarm_failures_per_hour: int = Field(default=50, ge=0)
    """Alarm when more than this many sessions failed in the last hour."""
    alarm_sync_age: PositiveSeconds = 3_600.0
    """Alarm when the last successful sync is older than this many seconds."""
    loop_tick: PositiveSeconds = 0.1
    """Seconds between two measurements of the event loop's lag."""

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def _supported_database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        url = value.get_secret_value()
        if not url.startswith(("sqlite+aiosqlite://", "postgresql+psycopg://")):
            raise ValueError("must start with sqlite+aiosqlite:// or postgresql+psycopg://")
        from sqlalchemy import make_url  # noqa: PLC0415  # takes 0.15 s, and commands at a service load no settings
        from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

        try:
            make_url(url)
        except (ArgumentError, ValueError):
            raise ValueError(f"cannot be read; {_ENCODED}") from None
        if url.startswith("postgresql") and url.count("@") > 1:
            # What follows the first would be taken for the host, which errors name.
            raise ValueError(f"has more than one @; {_ENCODED}")
        return value

    @field_validator("rate_limit_storage")
    @classmethod
    def _supported_storage(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("memory://", "redis://", "rediss://")):
            raise ValueError("must be memory:// or start with redis:// or rediss://")
        try:
            _ = urlsplit(value.get_secret_value()).port
        except ValueError:  # its text has what stands in the port's place: the beginning of a password
            raise ValueError(f"cannot be read; {_ENCODED}") from None
        return value

    @field_validator("gologin_api_url", "gologin_local_url", "x_web_url", "x_api_url", "adspower_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """RFC 6454, 6.2; ``*`` would open the API to every page."""
        if wrong := [origin for origin in value if not _ORIGIN.fullmatch(origin)]:
            raise ValueError(f"{wrong[0]!r} is no origin such as https://tools.example.com")
        return value

    @field_validator("profile_rule_pattern")
    @classmethod
    def _pattern_names_the_account(cls, value: str) -> str:
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        if "account" not in groups:
            raise ValueError("must have a group (?P<account>...), and may have one (?P<app>...)")
        return value

    @field_validator("oidc_scopes")
    @classmethod
    def _asks_for_an_id_token(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in value:
            raise ValueError('must contain "openid": without it the provider sends no ID token')
        return value

    @model_validator(mode="after")
    def _single_sign_on_is_whole(self) -> Self:
        """Check the settings of OpenID Connect, which are needed together; those with a default do not count."""
        needed = {
            "OIDC_ISSUER": self.oidc_issuer,
            "OIDC_CLIENT_ID": self.oidc_client_id,
            "OIDC_REDIRECT_URI": self.oidc_redirect_uri,
            "OIDC_RIGHTS": self.oidc_rights,
        }
        missing = [name for name, value in needed.items() if not value]
        if len(missing) < len(needed) or self.oidc_client_secret is not None:
            if missing:
                raise ValueError(f"single sign-on needs {', '.join(missing)}, too; or leave out all OIDC_…")
            for name in ("OIDC_ISSUER", "OIDC_REDIRECT_URI"):
                self._check_web_address(name, str(needed[name]))
            if urlsplit(str(self.oidc_redirect_uri)).path != OIDC_CALLBACK_PATH:
                raise ValueError(f"OIDC_REDIRECT_URI must end with {OIDC_CALLBACK_PATH}")
        return self

    def _check_web_address(self, name: str, value: str) -> None:
        """Raises `ValueError` for an address that is neither https nor, in development, of this machine."""
        try:
            url = Url(value)
        except ValueError:
            raise ValueError(f"{name} is no address such as https://login.example.com") from None
        if url.username or url.password or url.query is not None or url.fragment is not None:
            raise ValueError(f"{name} must have no user, password, query or fragment")
        is_local = self.environment is Environment.DEVELOPMENT and is_loopback(url.host or "")
        if url.scheme != "https" and not (url.scheme == "http" and is_local):
            raise ValueError(
                f"{name} must start with https://; http:// is for this machine itself, with ENVIRONMENT=development"
            )

    def know_secrets(self) -> None:
        """Have the keys of the settings masked wherever a caller sends one in a wrong place."""
        secrets = (self.api_key, self.gologin_api_token, self.oidc_client_secret or SecretStr(PLACEHOLDER))
        keys = [secret.get_secret_value() for secret in secrets]
        know_secrets(*(key for key in keys if key != PLACEHOLDER))

    @field_validator("api_key")
    @classmethod
    def _not_to_be_guessed(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if key != PLACEHOLDER and len(key) < _MIN_KEY_LENGTH:
            raise ValueError(f"must have at least {_MIN_KEY_LENGTH} characters; it may do everything")
        return value

    @field_validator("internal_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < _MIN_SECRET_LENGTH:
            raise ValueError(
                f"must have at least {_MIN_SECRET_LENGTH} characters; make one: "
                'python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _readable_keys(cls, value: SecretStr) -> SecretStr:
        _parse_keys(value.get_secret_value())
        return value

    @field_validator("oauth_apps", "oidc_rights", mode="before")
    @classmethod
    def _readable_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _no_placeholder_outside_development(self) -> Self:
        """Refuse settings that still hold what `.env.example` carries in their place."""
        if self.environment is Environment.DEVELOPMENT:
            return self
        secrets = {"API_KEY": self.api_key}
        if self.profile_browser == "gologin":
            secrets["GOLOGIN_API_TOKEN"] = self.gologin_api_token
        if self.oidc_client_secret is not None:
            secrets["OIDC_CLIENT_SECRET"] = self.oidc_client_secret
        for name, app in self.oauth_apps.items():
            client_secret = app.client_secret.get_secret_value() if app.client_secret else ""
            secrets[f"OAUTH_APPS.{name}"] = SecretStr(f"{app.client_id} {client_secret}")
        names = [name for name, secret in secrets.items() if PLACEHOLDER in secret.get_secret_value()]
        if _DEVELOPMENT_KEY in self.encryption_keys.get_secret_value():
            names.append("ENCRYPTION_KEYS")
        if names:
            raise ValueError(
                f"{', '.join(names)} still hold the placeholder of .env.example; "
                f"set real values, or ENVIRONMENT=development ({self.environment} refuses to start with them)"
            )
        return self

    @model_validator(mode="after")
    def _an_attempt_fits(self) -> Self:
        seconds = self.profile_start_timeout + self.authorization_timeout + self.attended_timeout
        if self.session_max_running < seconds:
            raise ValueError(
                f"SESSION_MAX_RUNNING must be at least {seconds:g}: PROFILE_START_TIMEOUT, AUTHORIZATION_TIMEOUT and "
                "ATTENDED_TIMEOUT of one attempt together"
            )
        return self

    @model_validator(mode="after")
    def _other_machines_need_the_secret(self) -> Self:
        if self.internal_secret is None and not is_loopback(self.internal_host):
            raise ValueError(
                "INTERNAL_SECRET must be set, because INTERNAL_HOST can be reached by other machines; "
                "or leave INTERNAL_HOST at 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _direct_url_is_of_postgresql(self) -> Self:
        if self.database_direct_url is not None and (
            self.is_sqlite or self.database_direct_url.get_secret_value().startswith("sqlite")
        ):
            raise ValueError(
                "DATABASE_DIRECT_URL is for PostgreSQL behind PgBouncer: leave it out with SQLite"
            )
        return self

    @model_validator(mode="after")
    def _somebody_works(self) -> Self:
        if not self.serve_workers and self.is_sqlite:
            raise ValueError("SERVE_WORKERS=false needs PostgreSQL: beside SQLite no other process can work")
        return self

    @property
    def shows_docs(self) -> bool:
        return self.environment is Environment.DEVELOPMENT if self.docs_enabled is None else self.docs_enabled

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def serving_role(self) -> ProcessRole:
        """Role of a process that serves the API."""
        return ProcessRole.SERVICE if self.serve_workers else ProcessRole.API

    def pool_size(self, role: ProcessRole) -> int:
        """Return the ceiling of connections in the pool of a process."""
        if self.database_pool_size is not None:
            return self.database_pool_size
        return _SQLITE_POOL_SIZE if self.is_sqlite else _POOL_SIZES[role]

    @cached_property
    def key_ring(self) -> KeyRing:
        return KeyRing(_parse_keys(self.encryption_keys.get_secret_value()))

    @cached_property
    def cursors(self) -> Cursors:
        return Cursors(self.encryption_key_bytes)

    @property
    def encryption_key_bytes(self) -> list[bytes]:
        return list(_parse_keys(self.encryption_keys.get_secret_value()).values())


class SettingsError(Exception):
    """The settings are wrong; the text has one readable line per wrong setting and no value."""


def load_settings(env_file: str | Path | None = ".env", **overrides: Any) -> Settings:
    """The settings of this process. Raises `SettingsError`."""
    if unknown := [
        name
        for name in os.environ
        if name.upper().startswith(_OUR_PREFIXES) and name.lower() not in Settings.model_fields
    ]:
        raise SettingsError("\n".join(f"{name}: {_explain_unknown(name)}" for name in unknown))
    _check_encoding(env_file)
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        lines = []
        for item in error.errors():  # a line for each; never the value, which may be a secret
            name = ".".join(str(part) for part in item["loc"]).upper() or "settings"
            problem = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                problem = _explain_unknown(name)
            lines.append(f"{name}: {problem}")
        raise SettingsError("\n".join(lines)) from None
    except ValueError as error:  # pydantic-settings: a complex value that is not JSON
        raise SettingsError(f"{error} (it must be JSON on one line)") from None


def _explain_unknown(name: str) -> str:
    if successors := _REPLACED.get(name.upper()):
        return f"replaced by {successors}; see CHANGELOG.md"
    return "no such setting; see .env.example for the names"


def _check_encoding(env_file: str | Path | None) -> None:
    """Raises `SettingsError` without the file's content."""
    if env_file is None or not Path(env_file).is_file():
        return
    try:
        text = Path(env_file).read_bytes().decode()
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise SettingsError(f"{env_file} cannot be read: {error.strerror}") from None
    if "\0" in text:  # UTF-16 without a byte order mark reads as UTF-8 with NULs
        raise SettingsError(f"{env_file} is not UTF-8: save it in this encoding")


def _parse_keys(text: str) -> dict[str, bytes]:
    """``id:key,id:key`` → keys by id, in their order. Raises `ValueError` that quotes no key."""
    keys: dict[str, bytes] = {}
    for entry in text.split(","):
        key_id, separator, encoded = entry.strip().partition(":")
        if not separator or not KEY_ID.fullmatch(key_id):
            raise ValueError(
                "must be 'id:key' pairs separated by commas; make one with `python -m app secrets generate`"
            )
        if key_id in keys:
            raise ValueError(f"key id '{key_id}' stands twice")
        keys[key_id] = decode_key(encoded)
    return keys
