"""Configuration of a sandbox run (`SandboxConfig`) and its announcement (`SandboxInfo`)."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCOPES = ("tweet.read", "users.read", "offline.access")


class SandboxConfig(BaseModel):
    """Settings of one run; left out: free ports, random secrets, a temporary folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accounts: int = Field(
        default=5, ge=0, description="how many accounts, each with one profile, exist at start"
    )
    data_dir: Path | None = Field(
        default=None, description="profile folders; None: temporary, removed at the end"
    )

    host: str = Field(default="127.0.0.1", description="address to listen on")
    public_host: str | None = Field(default=None, description="host name in the announced URLs; None: `host`")
    gologin_api_port: int = Field(default=0, ge=0, le=65535)
    gologin_local_port: int = Field(default=0, ge=0, le=65535)
    adspower_port: int = Field(default=0, ge=0, le=65535)
    provider_port: int = Field(default=0, ge=0, le=65535)
    admin_port: int = Field(default=0, ge=0, le=65535)

    gologin_token: str | None = Field(default=None, description="None: random per run")
    aiott1_client_secret: str | None = Field(default=None, description="None: random per run")
    aiott1_redirect_uri: str | None = Field(
        default=None, description="None: a local address where nothing listens"
    )

    chromium: str | None = Field(
        default=None, description="path; None: $CHROMIUM_PATH, then well-known names on PATH"
    )
    chromium_args: tuple[str, ...] = Field(default=(), description="further command line switches")

    @property
    def url_host(self) -> str:
        """The host name that clients use."""
        return self.public_host or self.host


class AppInfo(BaseModel):
    """One OAuth app registered at the sandbox provider; a public client has no secret."""

    kind: Literal["oauth2", "oauth1"] = "oauth2"
    client_id: str
    client_secret: str | None
    redirect_uri: str
    scopes: list[str]


class SandboxInfo(BaseModel):
    """The one JSON line printed when everything listens: all that a client needs to know."""

    gologin_api_url: str
    gologin_local_url: str
    adspower_url: str
    provider_url: str
    admin_url: str
    gologin_api_token: str
    apps: dict[str, AppInfo]
    plainbook_url: str
    plainbook_app: AppInfo
    accounts: list[str]
