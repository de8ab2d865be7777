"""All that the service can be asked, each call written once; no I/O."""

import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar, Unpack

import httpx

from .answers import Batch, BatchRow, Event, PlacedBatch, Session, StreamedEvent, Token, Verified
from .errors import AuthorizationFailed, ServiceError, ServiceUnreachable, WaitTimeout
from .exchange import Deadline, Flow, Request, built, opened, plain, segment, wait_before_retry
from .methods import Call, Each
from .options import AuthorizeOptions, BatchOptions, EventFilters, StreamFilters
from .reading import Pages, Stream
from .tokens import Asked, Kept, Key, TokenCache

T = TypeVar("T")
S = TypeVar("S", Session, Batch)

_BATCH_TIMEOUT: Final = 60.0
"""Seconds for a new batch, which may have 10,000 rows."""
_POLL: Final = 25.0
"""Seconds that the service is asked to wait for an end: less than proxies allow a request."""
_TURN: Final = 0.02
"""Seconds between two looks whether somebody else has got the token."""
_LOOPBACK: Final = re.compile(r"localhost|127(\.\d+){3}|::1")
_KEPT_WITHOUT_EXPIRY: Final = 3600.0
_PACE: Final = frozenset({"max_running", "stop_percent", "stop_window"})


class Calls:
    """All that the service can be asked, each written once."""

    def __init__(self, url: str, key: str, *, timeout: float, token_margin: float) -> None:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("the service's URL must begin with http:// or https://, and name a host")
        if not re.fullmatch(r"[\x21-\x7e]+", key := key.strip()):
            raise ValueError("the key is empty, or holds characters that no key has")
        self._timeout, self._token_margin = timeout, token_margin
        self._tokens = TokenCache(token_margin)
        self._place = f"{parsed.scheme}://{parsed.netloc.decode()}"
        self._for_httpx: dict[str, Any] = {
            "base_url": parsed,
            "headers": {"X-API-Key": key},
            # A service on this machine is not reached through the proxy that the environment names.
            "trust_env": not _LOOPBACK.fullmatch(parsed.host),
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._place!r})"

    @Call
    def authorize(
        self,
        account_id: str,
        api_app: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[AuthorizeOptions],
    ) -> Flow[Session]:
        """Ask for an authorization, or for the one that is open; the answer comes at once."""
        request = _authorizing(account_id, api_app, idempotency_key, options)
        return self._built_of(Session, request)

    @Call
    def wait(self, session_id: str, *, timeout: float = 300.0) -> Flow[Session]:
        """The session when it has ended, however. Raises `WaitTimeout`."""
        return (yield from self._ended(session_id, Deadline(timeout)))

    @Call
    def authorize_and_wait(
        self,
        account_id: str,
        api_app: str,
        *,
        timeout: float = 300.0,
        idempotency_key: str | None = None,
        **options: Unpack[AuthorizeOptions],
    ) -> Flow[Session]:
        """The completed session. Raises `AuthorizationFailed` when it ends otherwise, and `WaitTimeout`."""
        deadline, request = Deadline(timeout), _authorizing(account_id, api_app, idempotency_key, options)
        asked = yield from self._built_of(Session, request, Deadline(min(self._timeout, timeout)))
        session = yield from self._ended(asked.session_id, deadline, asked)
        if session.status != "completed":
            raise AuthorizationFailed(session)
        return session

    @Call
    def session(self, session_id: str) -> Flow[Session]:
        """Return the session's current state."""
        return self._built_of(Session, Request("GET", f"/authorize/{segment(session_id)}"))

    @Call
    def cancel(self, session_id: str) -> Flow[Session]:
        """End it now."""
        return self._built_of(Session, Request("POST", f"/authorize/{segment(session_id)}/cancel"))

    @Call
    def retry(self, session_id: str) -> Flow[Session]:
        """Let one that ended without tokens start again."""
        return self._built_of(Session, Request("POST", f"/authorize/{segment(session_id)}/retry"))

    @Call
    def make_batch(
        self,
        rows: Iterable[Mapping[str, Any]] | bytes,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Flow[PlacedBatch]:
        """`rows`: `account_id`, `api_app` and maybe `priority` each; or a CSV with these columns."""
        given = plain(options)
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        request = Request("POST", "/authorize/batch", headers=headers, seconds=_BATCH_TIMEOUT)
        if isinstance(rows, bytes):
            headers["Content-Type"] = "text/csv"
            request = replace(request, content=rows, params=given)
        else:
            pace = {name: given.pop(name) for name in _PACE & given.keys()}
            request = replace(request, json={"rows": list(map(dict, rows)), "defaults": given, **pace})
        answer = yield from self._data(request, Deadline(max(self._timeout, _BATCH_TIMEOUT)))
        return built(PlacedBatch, answer)

    @Call
    def batch(self, batch_id: str) -> Flow[Batch]:
        """Return the batch's current state."""
        return self._built_of(Batch, Request("GET", f"/batches/{segment(batch_id)}"))

    @Call
    def wait_for_batch(self, batch_id: str, *, timeout: float = 3600.0) -> Flow[Batch]:
        """The batch when all its rows have ended. Raises `WaitTimeout`."""
        deadline, request = Deadline(timeout), Request("GET", f"/batches/{segment(batch_id)}")
        batch: Batch | None = None
        while True:
            batch = yield from self._seen(Batch, request, deadline, batch)
            if batch.is_ended:
                return batch
            if deadline.left <= 0:
                raise WaitTimeout(batch)
            yield max(0.0, min(deadline.left, 10.0, max(1.0, (batch.eta_seconds or 0.0) / 10)))

    @Each
    def batch_results(self, batch_id: str) -> "Pages[BatchRow]":
        """Row by row, in their order."""
        return Pages(self._sent, BatchRow, f"/batches/{segment(batch_id)}/results", {}, by_number=True)

    @Call
    def cancel_batch(self, batch_id: str) -> Flow[Batch]:
        """End all its sessions now."""
        return self._built_of(Batch, Request("POST", f"/batches/{segment(batch_id)}/cancel"))

    @Call
    def retry_batch(self, batch_id: str, *, needs_attention: bool = False) -> Flow[Batch]:
        """Let its sessions that ended without tokens start again; `needs_attention`: also those for a person."""
        body = {"needs_attention": needs_attention}
        return self._built_of(Batch, Request("POST", f"/batches/{segment(batch_id)}/retry", json=body))

    @Call
    def token(self, account_id: str, api_app: str, *, min_ttl: float = 0.0) -> Flow[Token]:
        """A token that works now, and for `min_ttl` seconds at least (up to 3600); from the cache when that has one.

        However many ask for an account at once, the service is asked once.
        """
        key, deadline, mine = (_account(account_id), api_app), Deadline(self._timeout), Asked(min_ttl)
        while (found := self._tokens.get(key, min_ttl)) is None:
            asked = self._tokens.asking(key, mine)
            if asked is mine:
                return (yield from self._fetched(key, mine, deadline))
            if deadline.left <= 0:
                raise ServiceUnreachable("UNREACHABLE", "Others who ask for this token have no answer yet")
            yield _TURN
            if (found := asked.token_for(min_ttl)) is not None:
                return found
        return found

    def forget(self, account_id: str, api_app: str | None = None) -> None:
        """Take the account's tokens, or that for one app, out of the cache; `verify` does so, too."""
        self._tokens.forget(_account(account_id), api_app)

    @Call
    def verify(self, account_id: str, api_app: str) -> Flow[Verified]:
        """Ask the provider who the account's token speaks for; one that it refuses is refreshed, or authorised anew.

        What the cache has of it then, also by others who asked meanwhile, is forgotten.
        """
        path = f"/accounts/{segment(_account(account_id))}/verify"
        try:
            return (yield from self._built_of(Verified, Request("POST", path, {"api_app": api_app})))
        finally:
            self.forget(account_id, api_app)

    @Each
    def events(self, **filters: Unpack[EventFilters]) -> "Pages[Event]":
        """Yield events, the latest first."""
        return Pages(self._sent, Event, "/events", filters)

    @Each
    def stream_events(
        self,
        *,
        last_event_id: str | None = None,
        give_up_after: float = 300.0,
        accept_gap: bool = False,
        **filters: Unpack[StreamFilters],
    ) -> "Stream[StreamedEvent]":
        """Events as they happen, each once, from now on or after `last_event_id`, through any number of connections.

        Raises `ServiceUnreachable` when the service is away for `give_up_after` seconds, and `EventsMissed` unless
        `accept_gap`.
        """
        return Stream(StreamedEvent, filters, last_event_id, give_up_after, accept_gap)

    @Call
    def call(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, json: Any = None
    ) -> Flow[Any]:
        """The `data` of any other route. Raises `ValueError` for a `path` that is not of this service."""
        return self._data(Request(method, path, params or {}, json))

    def _sent(self, request: Request, deadline: Deadline | None = None) -> Flow[dict[str, Any]]:
        """The envelope of a success, after as many tries as there is time for."""
        deadline, tries = deadline or Deadline(self._timeout), 0
        while True:
            answer = yield replace(request, seconds=max(0.1, min(request.seconds, deadline.left)))
            envelope, error = opened(answer)
            if error is None:
                return envelope
            wait = wait_before_retry(error, tries, is_repeatable=request.is_repeatable)
            if wait is None or wait >= deadline.left:
                raise error
            yield wait
            tries += 1

    def _data(self, request: Request, deadline: Deadline | None = None) -> Flow[Any]:
        return (yield from self._sent(request, deadline))["data"]

    def _built_of(self, kind: type[T], request: Request, deadline: Deadline | None = None) -> Flow[T]:
        return built(kind, (yield from self._data(request, deadline)))

    def _seen(self, kind: type[S], request: Request, deadline: Deadline, before: S | None) -> Flow[S]:
        """Return the state. Raises `WaitTimeout` when no answer comes until the deadline and one came `before`."""
        try:
            return (yield from self._built_of(kind, request, deadline))
        except ServiceUnreachable as error:
            if before is None:
                raise
            raise WaitTimeout(before) from error

    def _ended(self, session_id: str, deadline: Deadline, session: Session | None = None) -> Flow[Session]:
        path = f"/authorize/{segment(session_id)}"
        while True:
            began, wait = time.monotonic(), max(0, int(min(_POLL, deadline.left - 1)))
            request = Request("GET", path, headers={"Prefer": f"wait={wait}"}, seconds=wait + 10.0)
            session = yield from self._seen(Session, request, deadline, session)
            if session.is_ended:
                return session
            if deadline.left <= 0:
                raise WaitTimeout(session)
            if time.monotonic() - began < 1:  # the service is stopping, or lets nobody wait
                yield max(0.0, min(1.0, deadline.left))

    def _fetched(self, key: Key, mine: Asked, deadline: Deadline) -> Flow[Token]:
        monotonic, wall = time.monotonic(), time.time()
        params = {"api_app": key[1], "min_ttl": mine.min_ttl}
        request = Request("GET", f"/accounts/{segment(key[0])}/token", params)
        try:
            envelope = yield from self._sent(request, deadline)
            mine.token = token = built(Token, envelope["data"])
            usable = self._token_margin + _KEPT_WITHOUT_EXPIRY
            if token.expires_at is not None:  # both times are by the service's clock
                usable = (token.expires_at - datetime.fromisoformat(envelope["timestamp"])).total_seconds()
            self._tokens.keep(key, mine, Kept(token, usable, monotonic, wall))
            return token
        except ServiceError as error:
            mine.error = error
            raise
        finally:
            self._tokens.has_asked(key, mine)


def _authorizing(
    account_id: str, api_app: str, idempotency_key: str | None, options: AuthorizeOptions
) -> Request:
    body = {"account_id": account_id, "api_app": api_app, **plain(options)}
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Request("POST", "/authorize", json=body, headers=headers)


def _account(account_id: str) -> str:
    """Return the handle as the service spells it."""
    return account_id.strip().removeprefix("@").lower()
