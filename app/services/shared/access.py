"""Access of API keys and webhooks to OAuth apps and accounts."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, or_, true

from app.utils.exceptions import OutOfReachException

MAX_ACCOUNT_PATTERNS: Final = 20
"""Ceiling of one key or webhook: each pattern that has a `*` is looked for in every row of a list."""
_ESCAPE: Final = "\\"


@dataclass(frozen=True)
class AccessScope:
    """Account patterns are handles with ``*`` for any characters; empty: all."""

    api_apps: frozenset[str] = frozenset()
    account_patterns: tuple[str, ...] = ()

    @classmethod
    def from_lists(cls, api_apps: Iterable[str], account_patterns: Iterable[str]) -> "AccessScope":
        return cls(frozenset(api_apps), tuple(account_patterns))

    def covers(self, account_id: str | None, api_app: str | None) -> bool:
        """Return whether a resource is covered; one without an account or app only where these are unrestricted."""
        has_app = not self.api_apps or api_app in self.api_apps
        return has_app and self._covers_account(account_id)

    def includes(self, other: "AccessScope") -> bool:
        """Return whether all that `other` covers is covered here, too."""
        has_apps = not self.api_apps or bool(other.api_apps and other.api_apps <= self.api_apps)
        has_accounts = not self.account_patterns or bool(
            other.account_patterns
            # A `*` of theirs is a letter here, for which only a `*` of ours stands.
            and all(self._covers_account(pattern) for pattern in other.account_patterns)
        )
        return has_apps and has_accounts

    def require(self, account_id: str | None, api_app: str | None) -> None:
        """Refuse an app or account that is not covered. Raises `OutOfReachException`."""
        if not self.covers(account_id, api_app):
            raise OutOfReachException(account_id, api_app)

    def require_all(self, other: "AccessScope") -> None:
        """Refuse a request that names more than is covered here. Raises `OutOfReachException`."""
        if not self.includes(other):
            accounts = " or ".join(other.account_patterns) or "all accounts"
            raise OutOfReachException(accounts, " or ".join(sorted(other.api_apps)) or "all apps")

    def require_account(self, account_id: str) -> None:
        """Refuse an account that is not covered in any app. Raises `OutOfReachException`."""
        if not self._covers_account(account_id):
            raise OutOfReachException(account_id)

    def condition(self, account_column: Any, app_column: Any) -> ColumnElement[bool]:
        """The same as `covers`, for a query."""
        exact = [pattern for pattern in self.account_patterns if "*" not in pattern]
        accounts = [account_column.in_(exact)] if exact else []
        accounts += [
            account_column.like(_like(pattern), escape=_ESCAPE)
            for pattern in self.account_patterns
            if "*" in pattern
        ]
        return and_(
            app_column.in_(self.api_apps) if self.api_apps else true(), or_(*accounts) if accounts else true()
        )

    def _covers_account(self, account_id: str | None) -> bool:
        return not self.account_patterns or (
            account_id is not None
            and any(fnmatchcase(account_id, pattern) for pattern in self.account_patterns)
        )


EVERYTHING: Final = AccessScope()


def _like(pattern: str) -> str:
    for special in (_ESCAPE, "%", "_"):
        pattern = pattern.replace(special, _ESCAPE + special)
    return pattern.replace("*", "%")
