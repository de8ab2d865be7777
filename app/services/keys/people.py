"""People who sign in to the operators' page by OpenID Connect: what is kept of them, and their rights of now."""

import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from app.clients.answers import value_at
from app.clients.texts import storable
from app.config import PersonRights, Settings, SettingsError
from app.models import ActorKind
from app.services.keys.service import Caller, Scope
from app.services.shared.access import MAX_ACCOUNT_PATTERNS, AccessScope
from app.utils.exceptions import SignInRequiredException
from app.utils.handles import normalize_pattern

ANSWER_WITHIN: Final = timedelta(minutes=10)
"""Time that a person has at the provider."""
_NAMES: Final = ("email", "preferred_username", "name")
"""Claims that may name a person, in this order."""
_MAX_SHOWN: Final = 60
_MAX_VALUE: Final = 255


@dataclass(frozen=True)
class Person:
    issuer: str
    subject: str
    name: str
    """Name in events: what the provider calls the person, and a part of the id, as others may call themselves so."""
    values: tuple[str, ...]
    """Values of the claim that have rights, in the order of the settings."""

    @property
    def id(self) -> str:
        return _person_id(self.issuer, self.subject)


class People:
    """`rights`: by value of the claim; the first value that a person has counts."""

    def __init__(
        self, *, issuer: str, claim: str, rights: Mapping[str, tuple[frozenset[Scope], AccessScope]]
    ) -> None:
        self.claim = claim
        self._issuer = issuer
        self._rights = rights

    @classmethod
    def from_settings(cls, settings: Settings) -> "People | None":
        """Return None without single sign-on. Raises `SettingsError`, one line per mistake."""
        if settings.oidc_issuer is None:
            return None
        problems: list[str] = []
        rights = {
            value: _read_rights(value, each, settings, problems)
            for value, each in (settings.oidc_rights or {}).items()
        }
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(issuer=settings.oidc_issuer, claim=settings.oidc_claim, rights=rights)

    def person_of(self, claims: Mapping[str, Any]) -> Person:
        """Return the person of an ID token; one without `values` has no rights."""
        found = claims.get(self.claim, value_at(claims, self.claim))
        if self.claim == "email" and claims.get("email_verified") is not True:
            found = None  # the person may have written another's
        values = {each for each in (found if isinstance(found, list) else [found]) if isinstance(each, str)}
        subject = str(claims["sub"])
        shown = next(filter(None, (_shown_name(claims, name) for name in _NAMES)), _plain(subject))
        part = _person_id(self._issuer, subject)[:8]
        name = f"{ActorKind.OIDC}:{shown}~{part}"
        return Person(self._issuer, subject, name, tuple(value for value in self._rights if value in values))

    def caller_of(self, person: Person) -> Caller:
        """Return the caller with the rights that the settings give today. Raises `SignInRequiredException`."""
        if person.issuer != self._issuer:
            raise SignInRequiredException("The provider of this sign-in is replaced")
        value = next((value for value in self._rights if value in person.values), None)
        if value is None:
            raise SignInRequiredException("The rights of this sign-in are withdrawn")
        scopes, access = self._rights[value]
        return Caller(person.name, scopes, access, kind=ActorKind.OIDC, person_id=person.id)


def _person_id(issuer: str, subject: str) -> str:
    """Return the id in events. Both parts have no blank or may have one: their lengths keep them apart."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{len(issuer)} {issuer} {subject}"))


def _shown_name(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or (name == "email" and claims.get("email_verified", True) is not True):
        return ""
    return _plain(value)


def _plain(text: str) -> str:
    """Return a name of somebody else's as one short line of printable characters."""
    normal = unicodedata.normalize("NFKC", storable(text[:1_000]))
    line = "".join(char if char.isprintable() and char != "~" else " " for char in normal)
    return " ".join(line.split())[:_MAX_SHOWN].strip()


def _read_rights(
    value: str, given: PersonRights, settings: Settings, problems: list[str]
) -> tuple[frozenset[Scope], AccessScope]:
    """Return the scopes and the access, and add to `problems` what is wrong."""
    place = f"OIDC_RIGHTS.{value}"
    if not 0 < len(value) <= _MAX_VALUE:
        problems.append(f"OIDC_RIGHTS: a value of the claim has 1 to {_MAX_VALUE} characters")
    scopes = frozenset(Scope(each) for each in given.scopes if each in list(Scope))
    if unknown := sorted(set(given.scopes) - scopes):
        problems.append(f"{place}.scopes: no scope {unknown[0]!r}; there are: {', '.join(Scope)}")
    if missing := sorted(set(given.api_apps) - settings.oauth_apps.keys()):
        problems.append(f"{place}.api_apps: no app {missing[0]!r} in OAUTH_APPS")
    if len(given.account_patterns) > MAX_ACCOUNT_PATTERNS:
        problems.append(f"{place}.account_patterns: at most {MAX_ACCOUNT_PATTERNS}")
    patterns = []
    for pattern in given.account_patterns:
        try:
            patterns.append(normalize_pattern(pattern))
        except ValueError as error:
            problems.append(f"{place}.account_patterns: {error}")
    return scopes, AccessScope.from_lists(given.api_apps, patterns)
