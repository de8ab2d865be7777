"""Requests and responses of `/events`."""

import re
from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from app.api.schemas.common import AccountId, Moment, known_type
from app.models import Event
from app.services.events.filters import EventFilter
from app.services.events.order import Position
from app.services.events.queries import COUNT_LIMIT
from app.services.events.streams import EventStreams, Reader
from app.services.shared.access import AccessScope
from app.utils.exceptions import UnknownEventIdException

_POSITION: Final = re.compile(r"(\d{1,19})-(\d{1,19})")
_LARGEST: Final = 2**63 - 1
_FILTERS: Final = {field.name for field in fields(EventFilter)} - {"access"}

_Id = Annotated[str | None, Field(max_length=128)]


class EventStreamQuery(BaseModel):
    """Filters of the stream; an omitted one matches all."""

    model_config = ConfigDict(extra="forbid")

    event_type: (
        Annotated[str, Field(pattern=r"^([a-z0-9_.]{1,64}\*?|\*)$"), AfterValidator(known_type)] | None
    ) = Field(
        default=None,
        description="One of the schema `EventType`, or the beginning of at least one: `authorization.*`",
    )
    account_id: AccountId | None = None
    api_app: _Id = Field(default=None, description="Name of an OAuth app")
    session_id: _Id = Field(default=None, description="Id of an authorization session")
    actor: _Id = Field(
        default=None, description="Name of an API key, or of a part of the service that acts by itself"
    )
    request_id: _Id = Field(default=None, description="Id of the request that caused the event")
    text: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Part of the type, an id, the actor or the data",
    )

    def filter(self, access: AccessScope) -> EventFilter:
        return EventFilter(**self.model_dump(include=_FILTERS), access=access)

    def given_filters(self) -> dict[str, Any]:
        """Filters that are given, as JSON."""
        return self.model_dump(mode="json", include=_FILTERS, exclude_none=True)


class EventQuery(EventStreamQuery):
    since: Moment | None = Field(default=None, description="Recorded at this time or later")
    until: Moment | None = Field(default=None, description="Recorded before this time")


class EventListQuery(EventQuery):
    """Filters, and where to begin: at a page, or at the `next_cursor` of the last answer."""

    page_size: int = Field(default=50, ge=1, le=500, description="Rows on a page")
    cursor: str | None = Field(
        default=None, max_length=512, description="`next_cursor` of the last answer; reaches every event"
    )
    page: int = Field(
        default=1,
        ge=1,
        le=COUNT_LIMIT,
        description=f"From 1 to the one with the {COUNT_LIMIT:,}th event, which depends on `page_size`; "
        "does not count with `cursor`",
    )

    @field_validator("page")
    @classmethod
    def _has_a_counted_event(cls, page: int, info: ValidationInfo) -> int:
        last = -(-COUNT_LIMIT // info.data.get("page_size", 1))
        if page > last and info.data.get("cursor") is None:
            raise PydanticCustomError(
                "less_than_equal",
                "Input should be at most {le} with this page_size; follow next_cursor from there",
                {"le": last},
            )
        return page


class EventExportQuery(EventQuery):
    format: Literal["csv", "ndjson"] = Field(
        default="ndjson", description="`ndjson`: one JSON object per line"
    )


class EventResponse(BaseModel):
    """One event: its type, subject, actor and request id."""

    id: int
    event_type: str = Field(
        description="One of the schema `EventType`; events of an older version may have another type"
    )
    occurred_at: datetime
    account_id: str | None
    api_app: str | None
    session_id: str | None
    profile_id: str | None
    actor: str = Field(
        description="Name of an API key, of a person (`oidc:…`), or of what acts by itself, such as `service`"
    )
    request_id: str | None
    data: dict[str, Any]

    @classmethod
    def from_row(cls, row: Event) -> "EventResponse":
        return cls.model_validate(row, from_attributes=True)


class ReaderResponse(BaseModel):
    key: str
    opened_at: datetime
    told: int
    position: str

    @classmethod
    def from_reader(cls, reader: Reader) -> "ReaderResponse":
        return cls(
            key=reader.key_name,
            opened_at=reader.opened_at,
            told=reader.told,
            position=write_position(reader.position),
        )


class StreamStatsResponse(BaseModel):
    """The event streams of the process that answers."""

    readers: list[ReaderResponse]
    max_readers: int
    max_readers_per_key: int
    kept: int = Field(description="Events in memory, for all readers together")
    opened: int = Field(description="Streams that were opened since the process started")
    refused: int = Field(description="Streams that were refused above a limit, since the start")
    cut_off: int = Field(description="Readers that were cut off because they took nothing, since the start")
    told: int = Field(description="Events that were sent, counted for each reader, since the start")
    told_from_history: int = Field(description="Those of them that were read from the database")

    @classmethod
    def from_streams(cls, streams: EventStreams) -> "StreamStatsResponse":
        return cls(
            readers=[ReaderResponse.from_reader(reader) for reader in streams.readers],
            max_readers=streams.limits.readers,
            max_readers_per_key=streams.limits.readers_per_key,
            kept=streams.kept,
            **vars(streams.totals),
        )


def write_position(position: Position) -> str:
    """Return a position as the stream's `id`."""
    return f"{position.xact_id}-{position.event_id}"


def read_position(text: str | None) -> Position | None:
    """Raises `UnknownEventIdException`."""
    if not text:
        return None
    match = _POSITION.fullmatch(text)
    if match is None or max(position := Position(int(match[1]), int(match[2]))) > _LARGEST:
        raise UnknownEventIdException
    return position
