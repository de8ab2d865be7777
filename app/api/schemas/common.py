"""Types of fields that several resources use."""

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, Field

from app.services.events.type_patterns import find_problem
from app.utils.handles import normalize_handle

_FIRST_YEAR: Final = 1970


_LAST_YEAR: Final = 2999


AccountId = Annotated[
    str,
    Field(
        max_length=128,
        description="The account's handle; a leading @ and upper case do not matter",
        examples=["my_account"],
        json_schema_extra={"pattern": r"^\s*@?[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,63}\s*$"},
    ),
    AfterValidator(normalize_handle),
]
"""Checked, and made lower case, by `normalize_handle`; the pattern tells clients."""


def _within_the_calendar(value: datetime) -> datetime:
    if not _FIRST_YEAR <= value.year <= _LAST_YEAR:
        raise ValueError(f"must be a time between the years {_FIRST_YEAR} and {_LAST_YEAR}")
    return value.astimezone(UTC)


Moment = Annotated[
    AwareDatetime, AfterValidator(_within_the_calendar), Field(examples=["2026-11-21T08:00:00Z"])
]
"""A time with its zone, made UTC, from which and to which seconds can be counted."""


def known_type(pattern: str) -> str:
    """Refuse a type of events, or a pattern of types, that matches none."""
    if problem := find_problem(pattern):
        raise ValueError(problem)
    return pattern
