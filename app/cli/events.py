"""`events`: past events, or new ones as they happen."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from app.api.schemas.event import EventResponse, read_position, write_position
from app.cli.backend import KeyOption, LocalClient, UrlOption, open_backend
from app.cli.shared import asynchronous, check_handle, echo
from app.client import Event, EventsMissed, StreamedEvent
from app.client.options import StreamFilters
from app.services.events import type_patterns
from app.services.events.filters import EventFilter
from app.services.events.queries import export
from app.services.events.streams import Reader
from app.services.keys.service import COMMAND_LINE

if TYPE_CHECKING:
    from app.context import Context

commands = typer.Typer()


@commands.command()
@asynchronous
async def events(
    follow: Annotated[
        bool, typer.Option("--follow", help="Print new events as they happen, until Ctrl-C.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stop after this number of events; all by default.")
    ] = None,
    last_event_id: Annotated[
        str | None,
        typer.Option(
            help="Id of the event to continue after, only with --follow; 0-0 begins with the first."
        ),
    ] = None,
    event_type: Annotated[
        str | None,
        typer.Option(help="Print only events of this type; `token.*` names all types with that prefix."),
    ] = None,
    account: Annotated[
        str | None,
        typer.Option(help="Print only events of the account with this handle.", callback=check_handle),
    ] = None,
    api_app: Annotated[str | None, typer.Option(help="Print only events of this OAuth app.")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Print only events from this time on, in UTC; not with --follow.")
    ] = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Print events as JSON, one object a line: the past ones, latest first, or new ones as they happen."""
    if (follow and since) or (last_event_id and not follow):
        raise typer.BadParameter("--follow goes with --last-event-id, and --since does without it")
    filters = _filters(event_type, account, api_app)
    async with open_backend(url, key) as backend:
        if follow and isinstance(backend, LocalClient):
            await _print(follow_locally(backend.context, last_event_id, **filters), limit)
        elif follow:
            await _print(backend.stream_events(last_event_id=last_event_id, **filters), limit)
        elif isinstance(backend, LocalClient):
            start = since.replace(tzinfo=UTC) if since else None
            await _print(list_locally(backend.context, EventFilter(since=start, **filters)), limit)
        elif since:
            await _print(backend.events(since=since.replace(tzinfo=UTC), **filters), limit)
        else:
            await _print(backend.events(**filters), limit)


def _filters(event_type: str | None, account: str | None, api_app: str | None) -> StreamFilters:
    filters: StreamFilters = {}
    if event_type:
        if problem := type_patterns.find_problem(event_type):
            raise typer.BadParameter(problem, param_hint="--event-type")
        filters["event_type"] = event_type
    if account:
        filters["account_id"] = account
    if api_app:
        filters["api_app"] = api_app
    return filters


async def _print(events: AsyncGenerator[Event | StreamedEvent, None], limit: int | None) -> None:
    async with aclosing(events):
        number = 0
        async for event in events:
            fields = asdict(event) | {"occurred_at": event.occurred_at.isoformat()}
            echo(json.dumps(fields, separators=(",", ":")))
            number += 1
            if number == limit:
                return


async def list_locally(context: "Context", filters: EventFilter) -> AsyncGenerator[Event, None]:
    """Yield events, the latest first, as an export reads them: the list would count them anew for each page."""
    async for rows in export(context.database, filters):
        for row in rows:
            yield Event(**vars(EventResponse.from_row(row)))


async def follow_locally(
    context: "Context", last_event_id: str | None = None, **filters: Unpack[StreamFilters]
) -> AsyncGenerator[StreamedEvent, None]:
    """Yield events as `AsyncClient.stream_events` does: a call in this process would return a stream at its end only.

    Raises `EventsMissed`.
    """
    position = read_position(last_event_id)
    while True:
        reader = Reader(key_name=COMMAND_LINE.name, filters=EventFilter(**filters), may_read=_allow)
        async with context.events.streams.open(reader, last=position):
            _check_gap(reader, last_event_id)
            async for batch in context.events.streams.tell(reader):
                _check_gap(reader, last_event_id)
                for streamed in batch:
                    fields = vars(EventResponse.from_row(streamed.event))
                    last_event_id = write_position(streamed.position)
                    yield StreamedEvent(**fields, last_event_id=last_event_id)
        position = reader.position  # its lifetime is over


def _check_gap(reader: Reader, last_event_id: str | None) -> None:
    if reader.gap is not None:
        raise EventsMissed(last_event_id or "", reader.gap.oldest_kept)


async def _allow() -> bool:
    return True
