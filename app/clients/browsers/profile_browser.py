"""The seam to the program that holds the profiles and runs their browsers; one client class for each kind."""

from collections.abc import Collection
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.clients.texts import printable, storable
from app.utils.hosts import is_loopback

MAX_PROFILE_ID: Final = 64
"""Characters; the width of the columns that keep it."""
MAX_ROWS: Final = 1_000
"""Ceiling of one page; products answer with up to 100."""
_MAX_NAME: Final = 500
"""Characters of a name that are kept: an entry of PostgreSQL's index has at most 2,704 bytes."""
_MAX_TEXT: Final = 20_000
_MAX_ADDRESS: Final = 2_048

Row = TypeVar("Row", bound=BaseModel)


class BrowserProfile(BaseModel):
    """A row of the profile list: what the service uses of it. A proxy is never read: its password is in clear."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = Field(min_length=1)
    name: str = ""
    notes: str | None = None
    tags: tuple[str, ...] = ()
    """Their titles."""
    os: str | None = None
    browser_type: str | None = None
    can_be_running: bool | None = None


class ProfilePage(BaseModel):
    """One page of the list, oldest profiles first; the list ends with an empty page."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    profiles: list[BrowserProfile]
    skipped: tuple[str, ...] = ()
    """Rows that cannot be stored, as logs and events may name them."""
    total: int | None = None
    """Rows on all pages, when the list tells it."""


class ProfileBrowserClient(Protocol):
    """Every failure is a `GoLoginAPIException` or a `GoLoginBreakerOpenException`."""

    async def list_profiles(self, page: int) -> ProfilePage:
        """Page `page`, from 1."""

    async def profile_exists(self, profile_id: str) -> bool: ...

    async def check_token(self) -> None:
        """Raises unless the credentials of the settings work."""

    async def start_profile(self, profile_id: str, *, timeout: float) -> str:
        """Start the profile's browser; its DevTools address (``ws://host:port/…``) once it is up.

        Never retried: a second start while the first goes on corrupts the profile.
        """

    async def stop_profile(self, profile_id: str) -> None:
        """Stop the profile's browser; a success too when it does not run."""


def read_rows(model: type[Row], rows: list[Any], id_field: str) -> tuple[list[Row], tuple[str, ...]]:
    """Return the rows whose profile id can be stored, and what names the others.

    Raises `ValueError` for too many rows.
    """
    if len(rows) > MAX_ROWS:
        raise ValueError(f"{len(rows)} rows on a page")
    good, skipped = [], []
    for number, row in enumerate(rows, start=1):
        profile_id = row.get(id_field) if isinstance(row, dict) else None
        try:
            if not is_profile_id(profile_id):
                raise ValueError
            good.append(model.model_validate(row))
        except (ValidationError, ValueError):
            skipped.append(f"row {number}: {printable(profile_id)}")
    return good, tuple(skipped)


def is_profile_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_PROFILE_ID and value.isprintable()


def to_name(value: Any) -> str:
    """Return text that a database takes, at a length that a list can show."""
    return storable(value[:_MAX_NAME]) if isinstance(value, str) else ""


def to_text(value: Any) -> str | None:
    return storable(value[:_MAX_TEXT]) if isinstance(value, str) else None


def checked_ws_url(ws_url: str, *, api_url: str, hosts: Collection[str]) -> str:
    """Return a DevTools address on this host, on the host of `api_url` or on one of `hosts`.

    Raises `ValueError` with a sentence for any other: what only seems to be the app could have anything called.
    """
    if len(ws_url) > _MAX_ADDRESS or not (ws_url.isascii() and ws_url.isprintable()):
        raise ValueError("the browser's address is no address")
    try:
        parts = urlsplit(ws_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("the browser's address has a host or port that cannot be") from None
    if parts.scheme not in ("ws", "wss") or "@" in parts.netloc or not host or not port or not parts.path:
        raise ValueError("the browser's address is no ws:// address with host, port and path")
    if host not in {urlsplit(api_url).hostname, *map(str.lower, hosts)} and not is_loopback(host):
        raise ValueError(f"the browser's address is on another host, {host}; BROWSER_HOSTS can allow it")
    return ws_url
