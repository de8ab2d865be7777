"""The event table's only writer: an event is recorded in the transaction of the change it tells of."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import announce
from app.models import ActorKind, AuthorizationSession, Event, EventType, class_of, utc_now
from app.services.shared.bulk_insert import insert_rows
from app.utils.request_id import current_request_id

_SUBJECT: Final = ("account_id", "api_app", "session_id", "profile_id")
"""Attributes that an event takes over from its session."""
_OWN_ACTORS: Final = {kind.value: kind for kind in ActorKind if kind not in (ActorKind.KEY, ActorKind.OIDC)}
_PERSON: Final = f"{ActorKind.OIDC}:"
"""Begin of the names of people, which no new API key may have."""

RECORDED: Final = "events"
"""Topic of `Database.listen` for commits with new events."""


def new_event(
    event_type: EventType,
    *,
    actor: str = "service",
    account_id: str | None = None,
    api_app: str | None = None,
    session_id: str | None = None,
    profile_id: str | None = None,
    request_id: str | None = None,
    occurred_at: datetime | None = None,
    **data: Any,
) -> dict[str, Any]:
    """An event of the request that is bound. `data` holds no secret.

    `actor`: an API key or a person, which the request has bound with its id, or one of the service's own actors.
    `occurred_at`: now by default.
    """
    return {
        "event_type": event_type,
        "event_class": class_of(event_type),
        "occurred_at": occurred_at or utc_now(),
        "actor": actor,
        **_kind_and_id(actor),
        "account_id": account_id,
        "api_app": api_app,
        "session_id": session_id,
        "profile_id": profile_id,
        "request_id": request_id or current_request_id(),
        "data": data,
    }


def _kind_and_id(actor: str) -> dict[str, str | None]:
    """Return the actor's kind and id. The name alone does not tell: an old key may have one that is reserved today."""
    bound = structlog.contextvars.get_contextvars()
    if bound.get("key") == actor:
        for name, kind in (("key_id", ActorKind.KEY), ("person_id", ActorKind.OIDC)):
            if (actor_id := bound.get(name)) is not None:
                return {"actor_kind": kind, "actor_id": actor_id}
    otherwise = ActorKind.OIDC if actor.startswith(_PERSON) else ActorKind.KEY
    return {"actor_kind": _OWN_ACTORS.get(actor, otherwise), "actor_id": None}


def record(db: AsyncSession, event_type: EventType, **values: Any) -> None:
    """Add an event, as `new_event` makes it, to the open transaction."""
    add_all(db, [new_event(event_type, **values)])


def add_all(db: AsyncSession, events: Sequence[dict[str, Any]]) -> None:
    """Add events, in their order, to those that the open transaction writes at its end in one statement."""
    db.add_all(Event(**event) for event in events)
    announce(db, RECORDED)


async def record_all(db: AsyncSession, events: Sequence[dict[str, Any]]) -> None:
    """Write many at once."""
    await db.execute(insert(Event.__table__), events)  # type: ignore[arg-type]
    announce(db, RECORDED)


def record_for(db: AsyncSession, event_type: EventType, row: AuthorizationSession, **data: Any) -> None:
    """An event about an authorization session; it keeps the request id of the POST that made the session."""
    record(
        db,
        event_type,
        actor=data.pop("actor", "service"),
        account_id=row.account_id,
        api_app=row.api_app,
        session_id=row.session_id,
        profile_id=row.profile_id,
        request_id=row.request_id,
        **data,
    )


async def record_requests(db: AsyncSession, rows: Sequence[AuthorizationSession]) -> None:
    """The requests of new sessions, in one statement; each with the actor and the request id of its row."""
    events = [
        new_event(
            EventType.AUTHORIZATION_REQUESTED,
            actor=row.requested_by,
            account_id=row.account_id,
            api_app=row.api_app,
            session_id=row.session_id,
            profile_id=row.profile_id,
            request_id=row.request_id,
        )
        | {"actor_kind": row.requested_by_kind, "actor_id": row.requested_by_id}
        for row in rows
    ]
    await record_all(db, events)


async def record_for_all(
    db: AsyncSession, event_type: EventType, rows: Sequence[Mapping[str, Any]], *, actor: str, request_id: str
) -> None:
    """The same event about each of many sessions of one request; `rows`: their values by attribute."""
    shared = new_event(event_type, actor=actor, request_id=request_id)
    for name in _SUBJECT:
        del shared[name]
    await insert_rows(db, Event, [{name: row[name] for name in _SUBJECT} for row in rows], shared=shared)
    announce(db, RECORDED)
