"""Sign-ins by OpenID Connect: begun in a browser, answered by the provider in the same browser, once.

The browser holds one secret. State, nonce and PKCE verifier are made of it, so that the database, which holds a hash of
the state, holds nothing with which an answer could be used, and no other browser can use it.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr
from sqlalchemy import delete

from app.clients.openid.provider import OpenIdProvider
from app.clients.texts import error_words
from app.database import Database
from app.models import AuthenticationRequest, EventType, utc_now
from app.services.events import recorder
from app.services.keys.people import ANSWER_WITHIN, People, Person
from app.utils.exceptions import NoRightsException, SingleSignOnRefusedException

_MAX_CODE: Final = 4_096
_MAX_ERROR: Final = 200
"""Characters."""
_LATE: Final = f"or took longer than {ANSWER_WITHIN.total_seconds() / 60:.0f} minutes"


@dataclass(frozen=True)
class _Answer:
    """Parts of the address to which the provider sends the browser."""

    state: str | None
    code: str | None
    issuer: str | None
    error: str | None
    error_description: str | None

    @classmethod
    def from_query(cls, query: Sequence[tuple[str, str]]) -> "_Answer":
        """Raises `SingleSignOnRefusedException` when a part came twice (RFC 6749, 3.1)."""
        parts = dict(query)
        if len(parts) < len(query):
            raise SingleSignOnRefusedException("The provider's answer says something twice")
        names = ("state", "code", "iss", "error", "error_description")
        return cls(*map(parts.get, names))


class SingleSignOn:
    def __init__(self, *, database: Database, provider: OpenIdProvider, people: People) -> None:
        self._database = database
        self._provider = provider
        self._people = people

    async def begin(self, next_page: str) -> tuple[SecretStr, str]:
        """Return the secret that the browser keeps, and the address at the provider to which it goes.

        Raises `SingleSignOnUnavailableException`.
        """
        secret = secrets.token_urlsafe(32)
        state = _derive(secret, "state")
        url = await self._provider.authorization_url(
            state=state, nonce=_derive(secret, "nonce"), verifier=_derive(secret, "verifier")
        )
        async with self._database.transaction() as db:
            expires_at = utc_now() + ANSWER_WITHIN
            db.add(AuthenticationRequest(state_hash=_hash(state), next_page=next_page, expires_at=expires_at))
        return SecretStr(secret), url

    async def finish(self, secret: str | None, query: Sequence[tuple[str, str]]) -> tuple[Person, str]:
        """Return the person, and the page that was asked for; of two answers at once one is taken.

        `secret`: what the browser keeps. `query`: names and values in the address to which the provider has sent it.

        Raises `SingleSignOnRefusedException`, `SingleSignOnUnavailableException`, `NoRightsException`.
        """
        answer = _Answer.from_query(query)
        state = _derive(secret or "", "state")
        if not secret or not hmac.compare_digest((answer.state or "").encode(), state.encode()):
            raise SingleSignOnRefusedException(f"This sign-in did not begin in this browser, {_LATE}")
        next_page = await self._spend(state)
        await self._provider.check_issuer(answer.issuer)
        if answer.error is not None:
            raise SingleSignOnRefusedException(f"The provider refuses the sign-in: {_words(answer)}")
        if not answer.code or len(answer.code) > _MAX_CODE:
            raise SingleSignOnRefusedException("The provider's answer has no code")
        claims = await self._provider.exchange(
            answer.code, nonce=_derive(secret, "nonce"), verifier=_derive(secret, "verifier")
        )
        person = self._people.person_of(claims)
        if not person.values:
            refusal = NoRightsException(self._people.claim)
            async with self._database.transaction() as db:
                recorder.record(
                    db,
                    EventType.DASHBOARD_SIGN_IN_REFUSED,
                    actor=person.name,
                    error_code=refusal.error_code,
                    claim=self._people.claim,
                )
            raise refusal
        return person, next_page

    async def _spend(self, state: str) -> str:
        """Spend the request, and return its next page. Raises `SingleSignOnRefusedException`."""
        is_open = (AuthenticationRequest.state_hash == _hash(state)) & (
            AuthenticationRequest.expires_at > utc_now()
        )
        async with self._database.transaction() as db:
            next_page = await db.scalar(
                delete(AuthenticationRequest).where(is_open).returning(AuthenticationRequest.next_page)
            )
        if next_page is None:
            raise SingleSignOnRefusedException(f"This sign-in was answered already, {_LATE}")
        return str(next_page)


def _derive(secret: str, purpose: str) -> str:
    """Return 43 characters, as a PKCE verifier needs them (RFC 7636, 4.1), which tell nothing of the secret."""
    digest = hmac.digest(secret.encode(), f"{purpose} of a single sign-on, version 1".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _hash(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()


def _words(answer: _Answer) -> str:
    """Return the provider's error and its description, which may be anything."""
    parts = [answer.error or "", answer.error_description or ""]
    return ": ".join(error_words(part)[:_MAX_ERROR] for part in parts if part)
