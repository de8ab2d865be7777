"""Filters of events and access to them, for the database and for an event at hand, with the same meaning."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, cast, literal_column, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from app.models import Event, EventClass, EventType, class_of
from app.services.shared.access import EVERYTHING, AccessScope

_TEXT_COLUMNS: Final = ("event_type", "account_id", "session_id", "profile_id", "actor", "request_id")
_SELECTIVE: Final = ("session_id", "request_id", "account_id", "actor", "event_type")
"""Columns with an index of their own, those with the fewest rows for a value first."""
_AUDIT_KEY: Final = ("account_id", "event_type")
_IS_AUDIT: Final = Event.event_class == literal_column(f"'{EventClass.AUDIT}'")
"""No parameter: the index of the audit trail is used only when the plan knows that the class fits."""
_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}

Conditions = list[ColumnElement[bool]]


@dataclass(frozen=True)
class EventFilter:
    """Filter of events; None and empty match all."""

    event_type: str | None = None
    """One type, or with a ``*`` at its end all that begin so."""
    account_id: str | None = None
    api_app: str | None = None
    session_id: str | None = None
    actor: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Exclusive end."""
    text: str | None = None
    """Part of the type, an id, the actor or the data, in any case of A to Z."""
    access: AccessScope = EVERYTHING

    def matches(self, event: Event) -> bool:
        return (
            all(getattr(event, column) == value for column, value in self._exact_values().items())
            and (self._type_prefix is None or event.event_type.startswith(self._type_prefix))
            and (self.since is None or event.occurred_at >= self.since)
            and (self.until is None or event.occurred_at < self.until)
            and (self.text is None or _has_text(event, self.text))
            and self.access.covers(event.account_id, event.api_app)
        )

    def conditions(self) -> Conditions:
        """The same as `matches`, for a query."""
        return self.indexed() + self.unindexed()

    def classes(self) -> set[EventClass]:
        """Return the classes of the types that fit."""
        prefix = self._type_prefix or ""
        if self.event_type is not None and self._type_prefix is None:
            return {class_of(self.event_type)}
        return {class_of(each) for each in EventType if each.startswith(prefix)}

    def indexed(self) -> Conditions:
        """Return the conditions that one index serves together with the order by time."""
        equal = self._exact_values()
        conditions: Conditions = [getattr(Event, column) == equal[column] for column in self._key()]
        if self._key() == _AUDIT_KEY:
            conditions.append(_IS_AUDIT)
        if self.since is not None:
            conditions.append(Event.occurred_at >= self.since)
        if self.until is not None:
            conditions.append(Event.occurred_at < self.until)
        return conditions

    def unindexed(self) -> Conditions:
        """Return the conditions for which each row has to be looked at."""
        key = self._key()
        conditions = [
            getattr(Event, column) == value
            for column, value in self._exact_values().items()
            if column not in key
        ]
        if self._type_prefix is not None:
            conditions.append(Event.event_type.startswith(self._type_prefix, autoescape=True))
        if self.text is not None:
            conditions.append(_text_condition(self.text))
        if self.access != EVERYTHING:
            conditions.append(self.access.condition(Event.account_id, Event.api_app))
        return conditions

    @property
    def _type_prefix(self) -> str | None:
        is_prefix = self.event_type is not None and self.event_type.endswith("*")
        return self.event_type[:-1] if self.event_type is not None and is_prefix else None

    def _exact_values(self) -> dict[str, str]:
        """Columns that must have one value."""
        values = {
            "event_type": self.event_type if self._type_prefix is None else None,
            "account_id": self.account_id,
            "api_app": self.api_app,
            "session_id": self.session_id,
            "actor": self.actor,
            "request_id": self.request_id,
        }
        return {column: value for column, value in values.items() if value is not None}

    def _key(self) -> tuple[str, ...]:
        """Return the columns that the best index has."""
        equal = self._exact_values()
        first = next((column for column in _SELECTIVE if column in equal), None)
        if first == "account_id" and class_of(equal.get("event_type", "")) is EventClass.AUDIT:
            return _AUDIT_KEY
        return (first,) if first else ()


class _AsciiLower(FunctionElement[str]):
    """`lower` that leaves all but A to Z alone, in whatever language the database was made."""

    type = Text()
    inherit_cache = True


@compiles(_AsciiLower)
def _plain_lower(element: _AsciiLower, compiler: SQLCompiler, **options: Any) -> str:
    return f"lower({compiler.process(element.clauses, **options)})"


@compiles(_AsciiLower, "postgresql")
def _lower_in_c(element: _AsciiLower, compiler: SQLCompiler, **options: Any) -> str:
    return f'lower({compiler.process(element.clauses, **options)} COLLATE "C")'


def _text_condition(text: str) -> ColumnElement[bool]:
    matches = [
        _AsciiLower(getattr(Event, column)).contains(_lower(text), autoescape=True)
        for column in _TEXT_COLUMNS
    ]
    in_data = _AsciiLower(cast(Event.data, Text)).contains(_lower(_json_text(text)), autoescape=True)
    return or_(*matches, in_data)


def _has_text(event: Event, text: str) -> bool:
    values = (getattr(event, column) or "" for column in _TEXT_COLUMNS)
    return any(_lower(text) in _lower(value) for value in values) or (
        _lower(_json_text(text)) in _lower(json.dumps(event.data))
    )


def _json_text(text: str) -> str:
    """Return a text as it stands inside a JSON string."""
    return json.dumps(text)[1:-1]


def _lower(text: str) -> str:
    return text.translate(_LOWER)
