"""Dependencies of handlers, as `Annotated` aliases. All are `async`: FastAPI runs others in a thread each."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection
from structlog.contextvars import bind_contextvars

from app.api.http.client_address import client_address
from app.api.http.presented_key import KEY_HEADER, presented_key
from app.api.http.rate_limit import FailedAuthentications, RateLimiter
from app.context import Context
from app.services.keys.service import Caller, Scope
from app.services.shared.access import EVERYTHING
from app.utils.exceptions import AuthenticationException, OutOfReachException, PermissionDeniedException

_WAIT: Final = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)

# Both describe the API; `presented_key` reads what they declare.
_api_key = APIKeyHeader(name=KEY_HEADER, auto_error=False, description="Made by `python -m app keys create`")
_bearer = HTTPBearer(auto_error=False, description="The same key; send one of the two headers")


async def get_context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(get_context)]


async def _transaction(context: ContextDep) -> AsyncIterator[AsyncSession]:
    async with context.database.transaction() as db:
        yield db


async def _reading(context: ContextDep) -> AsyncIterator[AsyncSession]:
    async with context.database.reading() as db:
        yield db


# "function": committed before the answer is sent, so that an answer never tells of a change that failed.
DbDep = Annotated[AsyncSession, Depends(_transaction, scope="function")]
ReadDbDep = Annotated[AsyncSession, Depends(_reading, scope="function")]


class KeyFirstRoute(APIRoute):
    """Checks the caller's key and rate before it reads the body, which FastAPI does before any dependency."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_known(request: Request) -> Response:
            await _authenticate(request)
            return await handle(request)

        return handle_known


async def _authenticate(request: Request) -> None:
    local_caller: Caller | None = getattr(request.app.state, "local_caller", None)
    if local_caller is not None:  # the application is called in its own process and never served
        request.state.caller = local_caller
        return
    context, key = await get_context(request), presented_key(request.headers)
    await identify(request, lambda: context.keys.authenticate(key))


async def identify(request: HTTPConnection, look_up: Callable[[], Awaitable[Caller]]) -> None:
    """Set `state.caller` to what `look_up` returns, and count the request against the key's rate.

    A look-up that raises `AuthenticationException` counts as a failure of the client's address. Every log line of the
    request names the key from the moment that it is known.
    """
    failures: FailedAuthentications = request.app.state.failed_authentications
    address = client_address(request.scope)
    try:
        async with failures.turn(address):
            caller = await look_up()
    except AuthenticationException as error:
        if error.key_name is not None:
            bind_contextvars(key=error.key_name)
        failures.add(address)
        raise
    request.state.caller = caller
    bind_contextvars(key=caller.name)
    if caller.key_id is not None:
        bind_contextvars(key_id=caller.key_id)
    if caller.person_id is not None:
        bind_contextvars(person_id=caller.person_id)
    limiter: RateLimiter = request.app.state.rate_limiter
    request.state.quota = await limiter.count(caller)
    request.state.quota.require()


async def _authenticated(
    request: Request, _key: Annotated[Any, Security(_api_key)], _token: Annotated[Any, Security(_bearer)]
) -> Caller:
    """Return the caller of a `KeyFirstRoute`; the key is declared once more for the API's description."""
    caller: Caller = request.state.caller
    return caller


def caller_with(scope: Scope, *, whole_fleet: bool = False) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency: the caller, whose key must have `scope`; `whole_fleet`: and must not be restricted."""

    # The scope is here for the API's description, too.
    async def check(caller: Annotated[Caller, Security(_authenticated, scopes=[scope])]) -> Caller:
        if not caller.may(scope):
            raise PermissionDeniedException(scope)
        if whole_fleet and caller.access != EVERYTHING:
            raise OutOfReachException
        return caller

    return check


AnyCallerDep = Annotated[Caller, Depends(_authenticated)]
"""The caller of a route that checks the scope itself, by what is asked for."""
AuthorizeCallerDep = Annotated[Caller, Depends(caller_with(Scope.AUTHORIZE))]
SessionsReadCallerDep = Annotated[Caller, Depends(caller_with(Scope.SESSIONS_READ))]
ProfilesCallerDep = Annotated[Caller, Depends(caller_with(Scope.PROFILES))]
TokensCallerDep = Annotated[Caller, Depends(caller_with(Scope.TOKENS_READ))]
TokensManageCallerDep = Annotated[Caller, Depends(caller_with(Scope.TOKENS_MANAGE))]
EvidenceCallerDep = Annotated[Caller, Depends(caller_with(Scope.EVIDENCE))]
EventsCallerDep = Annotated[Caller, Depends(caller_with(Scope.EVENTS))]
WebhooksCallerDep = Annotated[Caller, Depends(caller_with(Scope.WEBHOOKS))]
AppsReadCallerDep = Annotated[Caller, Depends(caller_with(Scope.FLEET_READ))]
"""Caller with `fleet:read` whose key may be restricted: for answers that leave out what it does not cover."""
FleetReadCallerDep = Annotated[Caller, Depends(caller_with(Scope.FLEET_READ, whole_fleet=True))]
AdminCallerDep = Annotated[Caller, Depends(caller_with(Scope.ADMIN))]
FleetProfilesCallerDep = Annotated[Caller, Depends(caller_with(Scope.PROFILES, whole_fleet=True))]
FleetAdminCallerDep = Annotated[Caller, Depends(caller_with(Scope.ADMIN, whole_fleet=True))]


IdempotencyKeyDep = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key and body give the same session for 24 hours; another body gives 409",
    ),
]


async def _preferred_wait(
    context: ContextDep,
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=30`: answer when the session has ended, after 30 seconds at most (RFC 7240)"
        ),
    ] = None,
) -> float:
    match = _WAIT.search(prefer or "")
    return min(float(match[1]), context.settings.max_wait) if match else 0.0


WaitDep = Annotated[float, Depends(_preferred_wait)]
"""Seconds the caller is willing to wait; 0: not at all."""
