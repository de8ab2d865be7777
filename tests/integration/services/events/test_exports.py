"""Exports: so many at once, for so long, and only while whoever asked may read."""

from typing import Any

import pytest

from app.database import Database
from app.services.events.exports import EventExports, ExportBrokenOff, ExportLimits
from app.services.events.filters import EventFilter
from app.utils.exceptions import TooManyExportsException
from tests.fixtures.events import add_events


def exports_of(database: Database, **changes: Any) -> EventExports:
    limits: dict[str, Any] = {"exports": 3, "exports_per_key": 2, "lifetime": 60} | changes
    return EventExports(database=database, limits=ExportLimits(**limits))


async def test_exports_are_limited_by_process_and_key(sqlite_url: str):
    exports = exports_of(Database(sqlite_url))
    with exports.open("a"), exports.open("b"):
        with exports.open("a"), pytest.raises(TooManyExportsException, match="The service"):
            exports.open("c").__enter__()
        with exports.open("b"), pytest.raises(TooManyExportsException, match="This API key"):
            exports.open("b").__enter__()
    assert exports.running == []


@pytest.mark.parametrize("reason", ["lifetime", "access"])
async def test_an_export_is_broken_off_between_two_parts(
    database: Database, monkeypatch: pytest.MonkeyPatch, reason: str
):
    await add_events(database, *({} for _ in range(7)))
    clock, told, asked = [0.0], 0, 0
    monkeypatch.setattr("app.services.events.exports.monotonic", lambda: clock[0])

    async def may_read() -> bool:
        nonlocal asked
        asked += 1
        return reason != "access" or told < 4

    with pytest.raises(ExportBrokenOff, match=reason):
        async for part in exports_of(database, page_size=2).parts(EventFilter(), may_read):
            told += len(part)
            if reason == "lifetime" and told == 4:
                clock[0] = 60
    assert told == 4
