"""The seam to the program that holds the profiles and runs their browsers; one client class for each kind."""

from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field


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
