"""`token`, `events`: what other programs read."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Unpack

import typer

from app.api.schemas.account import TokenResponse
from app.api.schemas.event import EventResponse, read_position, write_position
from app.cli.desk import KeyOption, UrlOption, desk
from app.cli.shared import asynchronous, say
from app.client import AsyncClient, Event, EventsMissed, StreamedEvent, Token
from app.client.options import EventFilters, StreamFilters
from app.context import Context
from app.services.events import queries, types
from app.services.events.filters import EventFilter
from app.services.events.streams import Reader
from app.services.keys.service import COMMAND_LINE
from app.utils.handles import normalize_handle

commands = typer.Typer()


def _handle(value: str | None) -> str | None:
    try:
        return normalize_handle(value) if value is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@commands.command()
@asynchronous
async def token(
    account: Annotated[str, typer.Argument(help="Handle of the account.", callback=_handle)],
    api_app: Annotated[str, typer.Option(help="Name of the OAuth app, a key of OAUTH_APPS.")],
    min_ttl: Annotated[
        float,
        typer.Option(
            min=0,
            max=3600,
            help="Seconds for which the token must stay valid; it is refreshed when they are not left.",
        ),
    ] = 0,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Print a valid access token of an account; an OAuth 1.0a token has its secret on a second line."""
    async with desk(url, key, LocalReading, AsyncClient) as reading:
        found = await reading.token(account, api_app, min_ttl=min_ttl)
    say(found.access_token)
    if found.oauth_token_secret is not None:
        say(found.oauth_token_secret)


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
        str | None, typer.Option(help="Print only events of the account with this handle.", callback=_handle)
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
    async with desk(url, key, LocalReading, AsyncClient) as reading:
        if follow:
            await _print(reading.stream_events(last_event_id=last_event_id, **filters), limit)
        elif since:
            await _print(reading.events(since=since.replace(tzinfo=UTC), **filters), limit)
        else:
            await _print(reading.events(**filters), limit)


def _filters(event_type: str | None, account: str | None, api_app: str | None) -> StreamFilters:
    found: StreamFilters = {}
    if event_type:
        if problem := types.find_problem(event_type):
            raise typer.BadParameter(problem, param_hint="--event-type")
        found["event_type"] = event_type
    if account:
        found["account_id"] = account
    if api_app:
        found["api_app"] = api_app
    return found


async def _print(found: AsyncGenerator[Event | StreamedEvent, None], limit: int | None) -> None:
    async with aclosing(found):
        number = 0
        async for event in found:
            say(_line(event))
            number += 1
            if number == limit:
                return


def _line(event: Event) -> str:
    return json.dumps(asdict(event) | {"occurred_at": event.occurred_at.isoformat()}, separators=(",", ":"))


class LocalReading:
    """Reads of `AsyncClient`, from the settings' database."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def token(self, account_id: str, api_app: str, *, min_ttl: float = 0.0) -> Token:
        handed = await self._context.tokens.credentials.get_access_token(
            account_id, api_app, min_ttl=min_ttl, actor=COMMAND_LINE.name
        )
        return Token(**vars(TokenResponse.from_handed(handed)))

    async def events(self, **filters: Unpack[EventFilters]) -> AsyncGenerator[Event, None]:
        async for rows in queries.export(self._context.database, EventFilter(**filters)):
            for row in rows:
                yield Event(**vars(EventResponse.from_row(row)))

    async def stream_events(
        self, *, last_event_id: str | None = None, **filters: Unpack[StreamFilters]
    ) -> AsyncGenerator[StreamedEvent, None]:
        """Raises `EventsMissed`."""
        position = read_position(last_event_id)
        while True:
            reader = Reader(key_name=COMMAND_LINE.name, wanted=EventFilter(**filters), may_read=_always)
            async with self._context.events.streams.opened(reader, last=position):
                _check_gap(reader, last_event_id)
                async for batch in self._context.events.streams.tell(reader):
                    _check_gap(reader, last_event_id)
                    for told in batch:
                        shown = vars(EventResponse.from_row(told.event))
                        last_event_id = write_position(told.position)
                        yield StreamedEvent(**shown, last_event_id=last_event_id)
            position = reader.position  # its lifetime is over


def _check_gap(reader: Reader, last_event_id: str | None) -> None:
    if reader.gap is not None:
        raise EventsMissed(last_event_id or "", reader.gap.oldest_kept)


async def _always() -> bool:
    return True
