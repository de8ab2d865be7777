"""`/events`: the audit trail as pages, as a file, and as it happens (server-sent events)."""

import csv
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Send

from app.api.dependencies import (
    ContextDep,
    EventsCallerDep,
    FleetReadCallerDep,
    KeyFirstRoute,
    ReadDbDep,
)
from app.api.errors import errors
from app.api.http.presented_key import presented_key
from app.api.http.stalled_clients import STALLED
from app.api.responses import APIResponse, PaginatedResponse, success_response
from app.api.schemas.event import (
    EventExportQuery,
    EventListQuery,
    EventResponse,
    EventStreamQuery,
    StreamStatsResponse,
    read_position,
    write_position,
)
from app.api.schemas.paging import Pager
from app.context import Context
from app.models import Event, EventType
from app.services.events import queries, recorder
from app.services.events.exports import ExportBrokenOff
from app.services.events.streams import EventStreams, Gap, Reader
from app.services.events.tail import StreamedEvent
from app.services.keys.service import Caller, Scope
from app.utils.exceptions import (
    AuthenticationException,
    DatabaseUnavailableException,
    InvalidCursorException,
    TooManyExportsException,
    TooManyStreamsException,
    UnknownEventIdException,
)
from app.utils.foreign_text import neutralise
from app.utils.logger import get_logger

router = APIRouter(prefix="/events", tags=["events"], route_class=KeyFirstRoute)

_LIST: Final = "events by page"
"""Cursors of the name `events` have another form, of an older version: they are refused."""
_RETRY_MS: Final = 1_000
UNBUFFERED: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_COLUMNS: Final = tuple(EventResponse.model_fields)

log = get_logger(__name__)


@router.get("", operation_id="listEvents", responses=errors(InvalidCursorException))
async def list_events(
    query: Annotated[EventListQuery, Query()],
    caller: EventsCallerDep,
    context: ContextDep,
    db: ReadDbDep,
) -> PaginatedResponse[EventResponse]:
    """List events, latest first. Page numbers end with the 10,000th event; `next_cursor` leads to all events."""
    filters = query.filter(caller.access)
    pager = Pager(query, context.cursors, caller, list_name=_LIST)
    page = await queries.fetch_page(db, filters, pager.request())
    # Counted for each page, also behind a cursor: events are added all the time.
    total = await queries.count(db, filters)
    return pager.answer(replace(page, total=total, number=query.page), EventResponse.from_row)


async def export_counted(caller: EventsCallerDep, context: ContextDep) -> AsyncIterator[None]:
    """Count the export for as long as the answer is under way."""
    with context.events.exports.open(caller.name):
        yield


class WholeOrBrokenOff(StreamingResponse):
    """Response whose end is not sent when rows are missing: its connection is closed, which the client notices."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except ExportBrokenOff as end:
            log.warning("events.export_broken_off", reason=end.reason)
        except DatabaseUnavailableException:  # which has logged it
            log.warning("events.export_broken_off", reason="database")


async def export_response(
    context: Context, caller: Caller, query: EventExportQuery, may_read: Callable[[], Awaitable[bool]]
) -> StreamingResponse:
    """Record the export and return the file; it is broken off once `may_read` says that the rights have ended."""
    async with context.database.transaction() as db:
        recorder.record(
            db,
            EventType.EVENTS_EXPORTED,
            actor=caller.name,
            format=query.format,
            filters=query.given_filters(),
        )
    parts = context.events.exports.parts(query.filter(caller.access), may_read)
    headers = {**UNBUFFERED, "Content-Disposition": f'attachment; filename="events.{query.format}"'}
    media_type = "text/csv; charset=utf-8" if query.format == "csv" else "application/x-ndjson"
    return WholeOrBrokenOff(export_lines(parts, query.format), media_type=media_type, headers=headers)


@router.get(
    "/export",
    operation_id="exportEvents",
    response_class=StreamingResponse,
    dependencies=[Depends(export_counted)],
    responses={
        200: {
            "content": {"text/csv": {}, "application/x-ndjson": {}},
            "description": "All events that fit, the latest first",
        },
        **errors(TooManyExportsException),
    },
)
async def export_events(
    request: Request,
    query: Annotated[EventExportQuery, Query()],
    caller: EventsCallerDep,
    context: ContextDep,
) -> StreamingResponse:
    """Export events as CSV, or as one JSON object per line. The connection of an incomplete file is broken off."""
    return await export_response(context, caller, query, _may_read(request, caller, context))


def _may_read(request: Request, caller: Caller, context: Context) -> Callable[[], Awaitable[bool]]:
    """Return whether the key still has the rights of the request's begin."""

    async def may_read() -> bool:
        try:
            now = await context.keys.authenticate(presented_key(request.headers))
        except AuthenticationException:
            return False
        return now.may(Scope.EVENTS) and now.access == caller.access

    return may_read


async def _open_reader(
    request: Request,
    caller: EventsCallerDep,
    context: ContextDep,
    query: Annotated[EventStreamQuery, Query()],
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="Last id that the client received; the stream continues after it",
            max_length=64,
        ),
    ] = None,
) -> AsyncIterator[Reader]:
    """Open a reader for as long as the answer is under way."""
    may_read = _may_read(request, caller, context)
    reader = Reader(key_name=caller.name, filters=query.filter(caller.access), may_read=may_read)
    async with context.events.streams.open(reader, last=read_position(last_event_id)):
        try:
            yield reader
        finally:
            reader.was_cut_off = getattr(request.state, STALLED, False)


@router.get(
    "/stream",
    operation_id="streamEvents",
    response_class=StreamingResponse,  # with EventSourceResponse FastAPI would encode for each reader anew
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events, one `EventResponse` each"},
        **errors(TooManyStreamsException, UnknownEventIdException),
    },
)
async def stream_events(
    reader: Annotated[Reader, Depends(_open_reader)], context: ContextDep
) -> EventSourceResponse:
    """Send events as they happen (`text/event-stream`). A client that reconnects with `Last-Event-ID` misses none
    and receives none twice.

    `event: gap` means that events may have been deleted before they were sent. `event: end` says why the server
    ends the stream.
    """
    return EventSourceResponse(_blocks(context.events.streams, reader), headers=UNBUFFERED)


@router.get("/stream/stats", operation_id="getEventStreamStats", responses=errors())
async def get_stream_stats(
    _caller: FleetReadCallerDep, context: ContextDep
) -> APIResponse[StreamStatsResponse]:
    """Return the readers of this process's event stream, and its totals."""
    return success_response(StreamStatsResponse.from_streams(context.events.streams))


async def _blocks(streams: EventStreams, reader: Reader) -> AsyncIterator[bytes]:
    # With an id from the beginning, so that whoever is cut off before the first event comes again at the same place.
    yield format_sse_event(retry=_RETRY_MS, id=write_position(reader.position), comment="connected")
    if (gap := reader.gap) is not None:
        yield _gap_notice(gap)
    async for batch in streams.tell(reader):
        if reader.gap is not None and reader.gap != gap:
            gap = reader.gap
            yield _gap_notice(gap)
        # An id alone moves Last-Event-ID past events that are not wanted.
        yield b"".join(map(_block, batch)) or format_sse_event(
            comment="heartbeat", id=write_position(reader.position)
        )
    yield format_sse_event(event="end", data_str=json.dumps({"reason": reader.ended}))


def _block(streamed: StreamedEvent) -> bytes:
    if streamed.wire is None:
        streamed.wire = format_sse_event(
            data_str=EventResponse.from_row(streamed.event).model_dump_json(),
            id=write_position(streamed.position),
        )
    return streamed.wire


def _gap_notice(gap: Gap) -> bytes:
    oldest_kept = gap.oldest_kept.isoformat() if gap.oldest_kept else None
    return format_sse_event(event="gap", data_str=json.dumps({"oldest_kept": oldest_kept}))


async def export_lines(
    parts: AsyncIterator[Sequence[Event]], file_format: Literal["csv", "ndjson"]
) -> AsyncIterator[str]:
    """Yield the lines of each part. In a CSV `data` is JSON, and the first line names the columns."""
    is_first = True
    async for rows in parts:
        events = [EventResponse.from_row(row) for row in rows]
        if file_format == "ndjson":
            yield "".join(f"{event.model_dump_json()}\n" for event in events)
            continue
        lines = io.StringIO()
        writer = csv.writer(lines)
        if is_first:
            writer.writerow(_COLUMNS)
            is_first = False
        for event in events:
            values = event.model_dump(mode="json")
            cells = (*(values[name] for name in _COLUMNS[:-1]), json.dumps(values["data"]))
            writer.writerow(map(neutralise, cells))
        yield lines.getvalue()
