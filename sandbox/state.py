"""Accounts with their GoLogin profiles, sign-in cookies, and the settings an admin may change."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

SESSION_COOKIE = "auth_token"


class SandboxSettings(BaseModel):
    """Behaviour of the stand-ins that is not a fault; changed by `PUT /settings` on the admin server."""

    model_config = ConfigDict(extra="forbid")

    consent_delay_ms: tuple[int, int] = Field(
        default=(100, 300), description="the consent page's data arrive after a random time in this range"
    )
    code_seconds: int = Field(default=30, ge=0, description="lifetime of an authorization code")
    access_token_seconds: int = Field(
        default=7200, ge=0, description="lifetime of access tokens issued from now on"
    )
    plainbook_chooser: bool = Field(default=True, description="Plainbook first asks which account to use")
    plainbook_banner: bool = Field(default=True, description="a cookie banner covers Plainbook's first page")
    token_rate_limits: dict[str, int] = Field(
        default_factory=dict,
        description="calls of the token endpoint per window, by app; others have no limit",
    )
    token_rate_window: int = Field(default=900, ge=1, description="seconds")
    latency_ms: int = Field(default=0, ge=0, description="added to every answer")
    gologin_rate_limit: int | None = Field(
        default=None, ge=1, description="cloud requests per minute; one more revokes the token"
    )
    adspower_spacing_ms: int = Field(
        default=0, ge=0, description="an AdsPower call that comes sooner after the one before is refused"
    )
    gologin_token_revoked: bool = Field(
        default=False, description="set by a 429; every cloud call then gets 401"
    )


@dataclass(slots=True)
class Profile:
    """A GoLogin profile; `account` is who is signed in inside it, `name` is what GoLogin's list shows."""

    id: str
    account: str
    name: str
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class Profiles:
    """All profiles, in the order of their creation; one per account."""

    def __init__(self, accounts: int = 0) -> None:
        self._by_id: dict[str, Profile] = {}
        self._by_account: dict[str, Profile] = {}
        self._order: list[Profile] | None = None
        self.reset(accounts)

    def reset(self, accounts: int) -> None:
        """Replaces everything with `sandbox_001 …`; some names carry a stray space, as GoLogin's do."""
        self._by_id.clear()
        self._by_account.clear()
        self._order = None
        for number in range(1, accounts + 1):
            account = f"sandbox_{number:03d}"
            self.add(account, name=_with_stray_space(account, number))

    def add(self, account: str, *, name: str | None = None, salt: str = "") -> Profile:
        """Adds the account's profile, or puts a new one in place of its present one."""
        self.remove(account)
        profile = Profile(id=profile_id_of(account, salt), account=account, name=name or account)
        self._by_id[profile.id] = self._by_account[account] = profile
        self._order = None
        return profile

    def remove(self, account: str) -> Profile | None:
        """Removes the account's profile; the account itself lives on at the provider."""
        profile = self._by_account.pop(account, None)
        if profile is not None:
            del self._by_id[profile.id]
            self._order = None
        return profile

    def replace(self, account: str) -> Profile:
        """Gives the account a new profile with the same name and another id.

        Raises `KeyError` if it has none.
        """
        return self.add(account, name=self._by_account[account].name, salt=secrets.token_hex(8))

    def get(self, profile_id: str) -> Profile | None:
        return self._by_id.get(profile_id)

    def find(self, account: str) -> Profile | None:
        return self._by_account.get(account)

    def all(self) -> Sequence[Profile]:
        if self._order is None:
            self._order = list(self._by_id.values())
        return self._order

    def search(self, text: str) -> Sequence[Profile]:
        """Profiles whose name contains `text` in any case; all of them for an empty text."""
        if not text:
            return self.all()
        return [profile for profile in self.all() if text.lower() in profile.name.lower()]

    def other_account(self, account: str) -> str:
        """An account that is not `account`: its successor in the list, or a stranger if there is no other."""
        handles = list(self._by_account)
        position = handles.index(account) if account in self._by_account else -1
        successor = handles[(position + 1) % len(handles)] if handles else account
        return successor if successor != account else "sandbox_stranger"


class Sessions:
    """Accounts that are signed in at the provider: the value of `SESSION_COOKIE` → account.

    One value per account and run.
    """

    def __init__(self) -> None:
        self._account_of: dict[str, str] = {}
        self._value_of: dict[str, str] = {}

    def cookie_value(self, account: str) -> str:
        if account not in self._value_of:
            value = secrets.token_urlsafe(24)
            self._value_of[account] = value
            self._account_of[value] = account
        return self._value_of[account]

    def account_of(self, cookie_value: str | None) -> str | None:
        return self._account_of.get(cookie_value or "")


def profile_id_of(account: str, salt: str = "") -> str:
    """24 hex digits, the same in every run for the same account (and salt)."""
    return hashlib.sha256(f"profile:{account}:{salt}".encode()).hexdigest()[:24]


def user_id_of(account: str) -> str:
    """The provider's decimal id of an account, the same in every run."""
    return str(int(hashlib.sha256(f"user:{account}".encode()).hexdigest()[:15], 16))


def _with_stray_space(account: str, number: int) -> str:
    return {2: f"{account} ", 4: f" {account}"}.get(number % 5, account)
