"""All that the service can be asked, each call written once; no I/O."""

import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar, Unpack

import httpx

from .answers import (
    Account,
    AccountAction,
    Batch,
    BatchRow,
    Event,
    PlacedBatch,
    Session,
    StreamedEvent,
    Token,
    Verified,
)
from .errors import AuthorizationFailed, ServiceError, ServiceUnreachable, WaitTimeout
from .exchange import Deadline, Flow, Request, build_value, open_envelope, plain, segment, wait_before_retry
from .methods import Call, Each
from .options import (
    AccountFilters,
    ActionFilter,
    AuthorizeOptions,
    BatchOptions,
    EventFilters,
    StreamFilters,
)
from .reading import Pages, Stream
from .tokens import CachedToken, Key, TokenCache, TokenRequest

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
        request = _authorize_request(account_id, api_app, idempotency_key, options)
        return self._build(Session, request)

    @Call
    def wait(self, session_id: str, *, timeout: float = 300.0) -> Flow[Session]:
        """The session when it has ended, however. Raises `WaitTimeout`."""
        return (yield from self._wait_for_end(session_id, Deadline(timeout)))

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
        deadline, request = (
            Deadline(timeout),
            _authorize_request(account_id, api_app, idempotency_key, options),
        )
        session = yield from self._build(Session, request, Deadline(min(self._timeout, timeout)))
        session = yield from self._wait_for_end(session.session_id, deadline, session)
        if session.status != "completed":
            raise AuthorizationFailed(session)
        return session

    @Call
    def session(self, session_id: str) -> Flow[Session]:
        """Return the session's current state."""
        return self._build(Session, Request("GET", f"/authorize/{segment(session_id)}"))

    @Call
    def cancel(self, session_id: str) -> Flow[Session]:
        """End it now."""
        return self._build(Session, Request("POST", f"/authorize/{segment(session_id)}/cancel"))

    @Call
    def retry(self, session_id: str) -> Flow[Session]:
        """Let one that ended without tokens start again."""
        return self._build(Session, Request("POST", f"/authorize/{segment(session_id)}/retry"))

    @Call
    def make_batch(
        self,
        rows: Iterable[Mapping[str, Any]] | bytes,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[BatchOptions],
    ) -> Flow[PlacedBatch]:
        """`rows`: `account_id`, `api_app` and maybe `priority` each; or a CSV with these columns."""
        batch_options = plain(options)
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        request = Request("POST", "/authorize/batch", headers=headers, seconds=_BATCH_TIMEOUT)
        if isinstance(rows, bytes):
            headers["Content-Type"] = "text/csv"
            request = replace(request, content=rows, params=batch_options)
        else:
            pace = {name: batch_options.pop(name) for name in _PACE & batch_options.keys()}
            request = replace(
                request, json={"rows": list(map(dict, rows)), "defaults": batch_options, **pace}
            )
        answer = yield from self._data(request, Deadline(max(self._timeout, _BATCH_TIMEOUT)))
        return build_value(PlacedBatch, answer)

    @Call
    def batch(self, batch_id: str) -> Flow[Batch]:
        """Return the batch's current state."""
        return self._build(Batch, Request("GET", f"/batches/{segment(batch_id)}"))

    @Call
    def wait_for_batch(self, batch_id: str, *, timeout: float = 3600.0) -> Flow[Batch]:
        """The batch when all its rows have ended. Raises `WaitTimeout`."""
        deadline, request = Deadline(timeout), Request("GET", f"/batches/{segment(batch_id)}")
        batch: Batch | None = None
        while True:
            batch = yield from self._fetch_state(Batch, request, deadline, batch)
            if batch.is_ended:
                return batch
            if deadline.remaining <= 0:
                raise WaitTimeout(batch)
            yield max(0.0, min(deadline.remaining, 10.0, max(1.0, (batch.eta_seconds or 0.0) / 10)))

    @Each
    def batch_results(self, batch_id: str) -> "Pages[BatchRow]":
        """Row by row, in their order."""
        return Pages(self._send, BatchRow, f"/batches/{segment(batch_id)}/results", {}, by_number=True)

    @Call
    def cancel_batch(self, batch_id: str) -> Flow[Batch]:
        """End all its sessions now."""
        return self._build(Batch, Request("POST", f"/batches/{segment(batch_id)}/cancel"))

    @Call
    def retry_batch(self, batch_id: str, *, needs_attention: bool = False) -> Flow[Batch]:
        """Let its sessions that ended without tokens start again; `needs_attention`: also those for a person."""
        body = {"needs_attention": needs_attention}
        return self._build(Batch, Request("POST", f"/batches/{segment(batch_id)}/retry", json=body))

    @Call
    def token(self, account_id: str, api_app: str, *, min_ttl: float = 0.0) -> Flow[Token]:
        """A token that works now, and for `min_ttl` seconds at least (up to 3600); from the cache when that has one.

        However many ask for an account at once, the service is asked once.
        """
        key, deadline, own_request = (
            (_account(account_id), api_app),
            Deadline(self._timeout),
            TokenRequest(min_ttl),
        )
        while (token := self._tokens.get(key, min_ttl)) is None:
            request = self._tokens.begin_request(key, own_request)
            if request is own_request:
                return (yield from self._fetch_token(key, own_request, deadline))
            if deadline.remaining <= 0:
                raise ServiceUnreachable("UNREACHABLE", "Others who ask for this token have no answer yet")
            yield _TURN
            if (token := request.token_for(min_ttl)) is not None:
                return token
        return token

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
            return (yield from self._build(Verified, Request("POST", path, {"api_app": api_app})))
        finally:
            self.forget(account_id, api_app)

    @Each
    def accounts(self, **filters: Unpack[AccountFilters]) -> "Pages[Account]":
        """Yield accounts with tokens, or those of a `state`, with or without tokens."""
        return Pages(self._send, Account, "/accounts", filters)

    @Call
    def act_on_accounts(
        self, action: str, *, expected_count: int | None = None, **filters: Unpack[ActionFilter]
    ) -> Flow[AccountAction]:
        """Do `refresh`, `authorize` or `revoke` for all accounts that the filters match.

        Without `expected_count` it is a dry run, whose `count` is the one to send.
        """
        body = {
            "action": action,
            "filter": plain(filters),
            "dry_run": expected_count is None,
            "expected_count": expected_count,
        }
        request = Request("POST", "/accounts/actions", json=body, seconds=_BATCH_TIMEOUT)
        answer = yield from self._data(request, Deadline(max(self._timeout, _BATCH_TIMEOUT)))
        return build_value(AccountAction, answer)

    @Call
    def fleet(self) -> Flow[dict[str, Any]]:
        """Return the whole fleet in numbers, as `GET /fleet` says it."""
        return self._data(Request("GET", "/fleet"))

    @Each
    def events(self, **filters: Unpack[EventFilters]) -> "Pages[Event]":
        """Yield events, the latest first."""
        return Pages(self._send, Event, "/events", filters)

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

    def _send(self, request: Request, deadline: Deadline | None = None) -> Flow[dict[str, Any]]:
        """The envelope of a success, after as many tries as there is time for."""
        deadline, tries = deadline or Deadline(self._timeout), 0
        while True:
            answer = yield replace(request, seconds=max(0.1, min(request.seconds, deadline.remaining)))
            envelope, error = open_envelope(answer)
            if error is None:
                return envelope
            wait = wait_before_retry(error, tries, is_repeatable=request.is_repeatable)
            if wait is None or wait >= deadline.remaining:
                raise error
            yield wait
            tries += 1

    def _data(self, request: Request, deadline: Deadline | None = None) -> Flow[Any]:
        return (yield from self._send(request, deadline))["data"]

    def _build(self, kind: type[T], request: Request, deadline: Deadline | None = None) -> Flow[T]:
        return build_value(kind, (yield from self._data(request, deadline)))

    def _fetch_state(
        self, kind: type[S], request: Request, deadline: Deadline, previous: S | None
    ) -> Flow[S]:
        """Return the state. Raises `WaitTimeout` when no answer comes until the deadline after a `previous` one."""
        try:
            return (yield from self._build(kind, request, deadline))
        except ServiceUnreachable as error:
            if previous is None:
                raise
            raise WaitTimeout(previous) from error

    def _wait_for_end(
        self, session_id: str, deadline: Deadline, session: Session | None = None
    ) -> Flow[Session]:
        path = f"/authorize/{segment(session_id)}"
        while True:
            start, wait = time.monotonic(), max(0, int(min(_POLL, deadline.remaining - 1)))
            request = Request("GET", path, headers={"Prefer": f"wait={wait}"}, seconds=wait + 10.0)
            session = yield from self._fetch_state(Session, request, deadline, session)
            if session.is_ended:
                return session
            if deadline.remaining <= 0:
                raise WaitTimeout(session)
            if time.monotonic() - start < 1:  # the service is stopping, or lets nobody wait
                yield max(0.0, min(1.0, deadline.remaining))

    def _fetch_token(self, key: Key, request: TokenRequest, deadline: Deadline) -> Flow[Token]:
        monotonic, wall = time.monotonic(), time.time()
        params = {"api_app": key[1], "min_ttl": request.min_ttl}
        http_request = Request("GET", f"/accounts/{segment(key[0])}/token", params)
        try:
            envelope = yield from self._send(http_request, deadline)
            request.token = token = build_value(Token, envelope["data"])
            usable = self._token_margin + _KEPT_WITHOUT_EXPIRY
            if token.expires_at is not None:  # both times are by the service's clock
                usable = (token.expires_at - datetime.fromisoformat(envelope["timestamp"])).total_seconds()
            self._tokens.keep(key, request, CachedToken(token, usable, monotonic, wall))
            return token
        except ServiceError as error:
            request.error = error
            raise
        finally:
            self._tokens.end_request(key, request)


def _authorize_request(
    account_id: str, api_app: str, idempotency_key: str | None, options: AuthorizeOptions
) -> Request:
    body = {"account_id": account_id, "api_app": api_app, **plain(options)}
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Request("POST", "/authorize", json=body, headers=headers)


def _account(account_id: str) -> str:
    """Return the handle as the service spells it."""
    return account_id.strip().removeprefix("@").lower()
