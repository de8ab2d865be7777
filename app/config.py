"""Everything that can be set, read from the environment and `.env`; `.env.example` documents each field."""

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
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.utils.crypto import KEY_ID, KeyRing, decode_key
from app.utils.cursors import Cursors
from app.utils.masking import know_secrets

PLACEHOLDER: Final = "change-me"
"""What `.env.example` carries where a secret belongs; it starts in development only."""

_DEVELOPMENT_KEY: Final = "b25seS1mb3ItZGV2ZWxvcG1lbnQtbmV2ZXItbGl2ZSE="
"""The encryption key of `.env.example`: a real key of 32 bytes that everybody knows."""

_SHORTEST_KEY: Final = 16
_ENCODED: Final = "write other characters than letters and digits in its user and password as %XX"
_ORIGIN: Final = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")

_OUR_PREFIXES: Final = (
    "GOLOGIN_",
    "OAUTH_",
    "ENCRYPTION_",
    "AUTHORIZATION_",
    "CONSENT_",
    "EVENT_",
    "EVIDENCE_",
    "DATABASE_",
    "CLEANUP_",
    "PROFILE_",
    "PROVIDERS_",
    "ALARM_",
    "ATTENDED_",
    "BATCH_",
    "CORS_",
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
    """None: as the setting `consent_mode` says."""

    @field_validator("redirect_uri")
    @classmethod
    def _browsers_can_open_it(cls, value: str) -> str:
        """Else its callback would never be recognised."""
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


class Settings(BaseSettings):
    """Durations are seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8-sig", extra="forbid", frozen=True
    )

    environment: Environment = Environment.DEVELOPMENT
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    serve_workers: bool = True
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    api_key: SecretStr = SecretStr(PLACEHOLDER)
    encryption_keys: SecretStr = SecretStr(f"dev:{_DEVELOPMENT_KEY}")
    rate_limit_per_minute: int = Field(default=100, ge=1)
    rate_limit_storage: SecretStr = SecretStr("memory://")
    """A Redis URI holds a password."""
    auth_failures_per_minute: int = Field(default=30, ge=1, le=1000)
    max_body_bytes: int = Field(default=64 * 1024, ge=1024)
    max_batch_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    max_batch_rows: int = Field(default=10_000, ge=1)
    max_wait: PositiveSeconds = 60.0
    docs_enabled: bool | None = None
    """None: in development only."""
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()

    database_url: SecretStr = SecretStr("sqlite+aiosqlite:///data/gologin.db")
    """PostgreSQL's holds a password."""
    postgres_password: SecretStr = SecretStr("")
    """For docker-compose.yml only, which makes `database_url` of it."""
    database_pool_size: int = Field(default=20, ge=1)

    profile_browser: Literal["gologin", "adspower"] = "gologin"
    gologin_api_url: str = "https://api.gologin.com"
    gologin_api_token: SecretStr = SecretStr(PLACEHOLDER)
    gologin_local_url: str = "http://localhost:36912"
    gologin_api_timeout: PositiveSeconds = 20.0
    gologin_requests_per_minute: int = Field(default=200, ge=1)
    profile_start_timeout: PositiveSeconds = 60.0
    profile_stop_timeout: PositiveSeconds = 20.0
    max_concurrent_profiles: int = Field(default=10, ge=1)
    fleet_max_running_profiles: int | None = Field(default=None, ge=1)
    attended_max_running: int = Field(default=2, ge=1)
    profile_rule: Literal["name", "notes", "tag", "none"] = "name"
    profile_rule_pattern: str = r"^@?(?P<account>[A-Za-z0-9_]{1,15})$"
    adspower_url: str = "http://local.adspower.net:50325"
    browser_hosts: tuple[str, ...] = ()
    """Where browsers may run besides this host and that of the profile browser's local API."""

    oauth_apps: dict[str, OAuthApp] = {}
    providers_file: Path | None = None
    """TOML; read by `app.services.oauth.provider_file`."""
    x_web_url: str = "https://x.com"
    x_api_url: str = "https://api.x.com"
    oauth_api_timeout: PositiveSeconds = 15.0

    consent_mode: Literal["automatic", "attended"] = "automatic"
    authorization_timeout: PositiveSeconds = 120.0
    attended_timeout: PositiveSeconds = 900.0
    browser_attach_timeout: PositiveSeconds = 20.0
    page_load_timeout: PositiveSeconds = 30.0
    consent_button_timeout: PositiveSeconds = 10.0
    callback_timeout: PositiveSeconds = 30.0
    chromedriver_path: Path | None = None

    session_lifetime: PositiveSeconds = 86_400.0
    session_max_running: PositiveSeconds = 7_200.0
    max_attempts: int = Field(default=3, ge=1)
    retry_wait: PositiveSeconds = 15.0
    max_waiting: int = Field(default=50_000, ge=1)
    app_pause_after: int = Field(default=5, ge=1)
    batch_max_running: int = Field(default=10, ge=1)
    batch_stop_percent: int = Field(default=50, ge=0, le=100)
    batch_stop_window: int = Field(default=20, ge=1)
    lease_seconds: PositiveSeconds = 20.0
    foreign_lease_grace: PositiveSeconds = 600.0
    machine_name: str = Field(default_factory=socket.gethostname, min_length=1, max_length=64)
    shutdown_grace: PositiveSeconds = 30.0

    refresh_margin: PositiveSeconds = 900.0
    refresh_jitter: PositiveSeconds = 1_800.0
    refresh_concurrency: int = Field(default=50, ge=1)
    refresh_retry_wait: PositiveSeconds = 30.0
    refresh_min_interval: PositiveSeconds = 60.0
    token_spill_folder: Path = Path("data/spilled-tokens")
    repair_apps: list[str] | None = None
    repair_per_day: int = Field(default=3, ge=0)
    repair_at_once: int = Field(default=5, ge=1)
    repair_interval: PositiveSeconds = 15.0
    webhook_allow_private_addresses: bool = False
    webhook_max_endpoints: int = Field(default=50, ge=1, le=1_000)
    webhook_timeout: PositiveSeconds = 10.0
    webhook_concurrency: int = Field(default=4, ge=1, le=100)
    webhook_retry_waits: list[PositiveSeconds] = [5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800]
    webhook_pause_after_hours: float = Field(default=12, gt=0)
    webhook_retention_days: int = Field(default=30, ge=1)
    sync_interval: PositiveSeconds = 900.0
    sync_retry_interval: PositiveSeconds = 60.0
    cleanup_interval: PositiveSeconds = 3_600.0
    monitor_interval: PositiveSeconds = 60.0
    loop_tick: PositiveSeconds = 0.1
    session_retention_days: int = Field(default=90, ge=1)
    event_retention_days: int = Field(default=90, ge=1)
    event_retention_count: int = Field(default=1_000_000, ge=1)
    event_stream_readers: int = Field(default=200, ge=1)
    event_stream_readers_per_key: int = Field(default=20, ge=1)
    event_stream_lifetime: PositiveSeconds = 3_600.0
    event_stream_heartbeat: PositiveSeconds = 15.0
    event_exports: int = Field(default=8, ge=1)
    event_exports_per_key: int = Field(default=2, ge=1)
    event_export_lifetime: PositiveSeconds = 3_600.0
    client_stall_timeout: PositiveSeconds = 30.0
    keep_alive_seconds: int = Field(default=75, ge=1)
    evidence_retention_days: int = Field(default=14, ge=1)
    evidence_max_screenshot_bytes: int = Field(default=500_000, ge=0)
    evidence_max_total_mb: int = Field(default=1024, ge=1)
    alarm_waiting_seconds: PositiveSeconds = 900.0
    alarm_pending: int = Field(default=1000, ge=1)
    alarm_failures_per_hour: int = Field(default=50, ge=0)
    alarm_sync_age: PositiveSeconds = 3_600.0

    @field_validator("database_url")
    @classmethod
    def _supported_database(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if not url.startswith(("sqlite+aiosqlite://", "postgresql+psycopg://")):
            raise ValueError("must start with sqlite+aiosqlite:// or postgresql+psycopg://")
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

    def know_secrets(self) -> None:
        """Have the keys of the settings masked wherever a caller sends one in a wrong place."""
        keys = (self.api_key.get_secret_value(), self.gologin_api_token.get_secret_value())
        know_secrets(*(key for key in keys if key != PLACEHOLDER))

    @field_validator("api_key")
    @classmethod
    def _not_to_be_guessed(cls, value: SecretStr) -> SecretStr:
        key = value.get_secret_value()
        if key != PLACEHOLDER and len(key) < _SHORTEST_KEY:
            raise ValueError(f"must have at least {_SHORTEST_KEY} characters; it may do everything")
        return value

    @field_validator("encryption_keys")
    @classmethod
    def _readable_keys(cls, value: SecretStr) -> SecretStr:
        _parse_keys(value.get_secret_value())
        return value

    @field_validator("oauth_apps", mode="before")
    @classmethod
    def _readable_apps(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _no_placeholder_outside_development(self) -> Self:
        if self.environment is not Environment.DEVELOPMENT and (names := self._placeholders()):
            raise ValueError(
                f"{', '.join(names)} still hold the placeholder of .env.example; "
                f"set real values, or ENVIRONMENT=development ({self.environment} refuses to start with them)"
            )
        return self

    @model_validator(mode="after")
    def _an_attempt_fits(self) -> Self:
        longest = self.profile_start_timeout + self.authorization_timeout + self.attended_timeout
        if self.session_max_running < longest:
            raise ValueError(
                f"SESSION_MAX_RUNNING must be at least {longest:g}: PROFILE_START_TIMEOUT, AUTHORIZATION_TIMEOUT and "
                "ATTENDED_TIMEOUT of one attempt together"
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

    @cached_property
    def key_ring(self) -> KeyRing:
        return KeyRing(_parse_keys(self.encryption_keys.get_secret_value()))

    @cached_property
    def cursors(self) -> Cursors:
        return Cursors(list(_parse_keys(self.encryption_keys.get_secret_value()).values()))

    def _placeholders(self) -> list[str]:
        """Settings that still hold what `.env.example` carries in their place."""
        secrets = {"API_KEY": self.api_key}
        if self.profile_browser == "gologin":
            secrets["GOLOGIN_API_TOKEN"] = self.gologin_api_token
        for name, app in self.oauth_apps.items():
            secret = app.client_secret.get_secret_value() if app.client_secret else ""
            secrets[f"OAUTH_APPS.{name}"] = SecretStr(f"{app.client_id} {secret}")
        found = [name for name, secret in secrets.items() if PLACEHOLDER in secret.get_secret_value()]
        if _DEVELOPMENT_KEY in self.encryption_keys.get_secret_value():
            found.append("ENCRYPTION_KEYS")
        return found


class SettingsError(Exception):
    """The settings are wrong; the text has one readable line per wrong setting and no value."""


def load_settings(env_file: str | Path | None = ".env", **overrides: Any) -> Settings:
    """The settings of this process. Raises `SettingsError`."""
    if unknown := [
        name for name in os.environ if name.upper().startswith(_OUR_PREFIXES) and not _is_setting(name)
    ]:
        raise SettingsError(
            "\n".join(f"{name}: no such setting; see .env.example for the names" for name in unknown)
        )
    _check_encoding(env_file)
    try:
        return Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_readable(item) for item in error.errors())) from None
    except ValueError as error:  # pydantic-settings: a complex value that is not JSON
        raise SettingsError(f"{error} (it must be JSON on one line)") from None


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


def _is_setting(name: str) -> bool:
    return name.lower() in Settings.model_fields


def _readable(error: Any) -> str:
    """One line; never the value, which may be a secret."""
    name = ".".join(str(part) for part in error["loc"]).upper() or "settings"
    if error["type"] == "extra_forbidden":
        return f"{name}: no such setting; see .env.example for the names"
    return f"{name}: {error['msg'].removeprefix('Value error, ')}"


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
