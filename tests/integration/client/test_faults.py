"""The client where answers are late, cut off, wrong or missing; threads and asyncio by the same tests."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest

from app.client import EventsMissed, ServiceError, ServiceUnreachable, calls, exchange, tokens
from tests.fixtures.api import NO_PLACE
from tests.fixtures.callers import KINDS, Caller, calling
from tests.fixtures.client_answers import BATCH, TOKEN
from tests.fixtures.scripted import Scripted, Slow, envelope, scripted, stream

pytestmark = pytest.mark.parametrize("kind", KINDS)

KEY = "the-secret-key"
AWAY = envelope(None, 503, code="DATABASE_UNAVAILABLE")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_FIRST_WAIT", 0.01)


@asynccontextmanager
async def talking(
    kind: str, *answers: bytes | Slow, **options: Any
) -> AsyncIterator[tuple[Scripted, Caller]]:
    async with scripted(*answers) as server, calling(kind, server.url, KEY, **options) as caller:
        yield server, caller


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_waited_for(kind: str, status: int):
    busy = envelope(None, status, code="BUSY", Retry_After=1)
    async with talking(kind, busy, envelope(BATCH)) as (server, caller):
        began = time.monotonic()
        assert (await caller.do("make_batch", [])).batch_id == "b"
        assert time.monotonic() - began >= 1
        first, second = server.heard
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.headers["x-api-key"] == KEY


async def test_retry_after_beyond_the_deadline_is_raised_at_once(kind: str):
    busy = envelope(None, 429, code="RATE_LIMITED", Retry_After=60)
    async with talking(kind, busy) as (server, caller):
        with pytest.raises(ServiceError, match="RATE_LIMITED") as limited:
            await caller.do("batch", "b")
        assert (limited.value.retry_after, len(server.heard)) == (60, 1)


async def test_client_repeats_only_repeatable_calls(kind: str):
    html = b"HTTP/1.1 502 Such\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"
    async with talking(kind, AWAY, html, b"nonsense", b"", envelope(BATCH)) as (server, caller):
        await caller.do("batch", "b")
        assert len(server.heard) == 5
    for failing in (AWAY, html, b""):
        async with talking(kind, failing, envelope(BATCH)) as (server, caller):
            with pytest.raises(ServiceError):
                await caller.do("cancel_batch", "b")
            assert len(server.heard) == 1


async def test_a_service_that_is_away_or_slow_ends_at_the_deadline(kind: str):
    slow = Slow(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{", 0.05)
    async with talking(kind, slow, timeout=0.3) as (_, caller):
        async with asyncio.timeout(60):
            with pytest.raises(ServiceUnreachable) as late:
                await caller.do("batch", "b")
    async with calling(kind, NO_PLACE, KEY, timeout=0.3) as caller:
        with pytest.raises(ServiceUnreachable, match="ConnectError") as gone:
            await caller.do("batch", "b")
        with pytest.raises(ServiceUnreachable):
            await caller.some("stream_events", 1, give_up_after=0.1)
    for error in (late.value, gone.value):
        assert KEY not in repr(error) + str(error) + repr(vars(error))
        assert (error.__cause__, error.__context__) == (None, None)


async def test_answer_of_another_server_is_refused(kind: str):
    wrong = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]"
    async with talking(kind, wrong, envelope({"batch_id": 1})) as (server, caller):
        for _ in range(2):
            with pytest.raises(ServiceError, match="UNEXPECTED_ANSWER"):
                await caller.do("batch", "b")
    away = b"HTTP/1.1 307 Such\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with talking(kind, away) as (server, caller):
        with pytest.raises(ServiceError, match="HTTP 307"):
            await caller.do("batch", "b")
        assert len(server.heard) == 1


def lives(seconds: float) -> bytes:
    """A token handed out at the service's time, which has nothing to do with this machine's."""
    expires_at = datetime.fromtimestamp(datetime(2026, 11, 21, 8, tzinfo=UTC).timestamp() + seconds, UTC)
    return envelope({**TOKEN, "expires_at": expires_at.isoformat()})


async def test_a_token_is_kept_for_as_long_as_it_lives_by_the_services_clock(
    kind: str, monkeypatch: pytest.MonkeyPatch
):
    clocks = Mock(monotonic=Mock(return_value=1000.0), time=Mock(return_value=5000.0))
    for module in (calls, tokens):
        monkeypatch.setattr(module, "time", clocks)
    async with talking(kind, lives(101), token_margin=100) as (server, caller):
        for _ in range(2):
            await caller.do("token", "anna", "A")
        assert len(server.heard) == 1
        assert await caller.do("token", "anna", "B")
        clocks.time.return_value += 2  # the machine slept: only this clock knows
        await caller.do("token", "anna", "A")
        assert len(server.heard) == 3
        clocks.time.return_value -= 3600
        clocks.monotonic.return_value += 2
        await caller.do("token", "anna", "A")
        assert len(server.heard) == 4
    for answer, asked in ((lives(99), 2), (envelope({**TOKEN, "expires_at": None}), 1)):
        async with talking(kind, answer, token_margin=100) as (server, caller):
            for _ in range(2):
                await caller.do("token", "anna", "A")
            assert len(server.heard) == asked


async def test_a_token_that_is_too_old_for_the_cache_serves_all_who_ask_meanwhile(kind: str):
    async with talking(kind, lives(50), token_margin=100) as (server, caller):
        await asyncio.gather(*(caller.do("token", "anna", "A") for _ in range(20)))
        if kind == "async":  # threads may come one after the other
            assert len(server.heard) == 1
        asked = len(server.heard)
        await caller.do("token", "anna", "A")
        assert len(server.heard) == asked + 1


def event(number: int) -> str:
    data = '"event_type":"t","occurred_at":"2026-11-21T08:00:00Z","actor":"me","data":{}'
    return f'id: 1-{number}\ndata: {{"id":{number},{data}}}\n\n'


async def test_a_stream_that_is_cut_off_goes_on_where_it_was(kind: str):
    """In the middle of an event, before the first one, and refused for a while."""
    busy = envelope(None, 429, code="TOO_MANY_STREAMS")
    opened = "retry: 1000\nid: 1-0\n: connected\n\n"
    end = 'event: end\ndata: {"reason": "shutdown"}\n\n'
    async with talking(
        kind,
        stream(opened),
        stream(opened, event(1), event(2)[:-1]),
        AWAY,
        busy,
        b"",
        stream(opened.replace("1-0", "1-1"), event(2), ": heartbeat\nid: 1-7\n\n", end),
        stream(event(8).replace("\n", "\r\n"), event(9)),
    ) as (server, caller):
        found = await caller.some("stream_events", 4, event_type="t")
    assert [each.id for each in found] == [1, 2, 8, 9]
    assert found[-1].last_event_id == "1-9"
    sent = [each.headers.get("last-event-id") for each in server.heard]
    assert sent == [None, "1-0", "1-1", "1-1", "1-1", "1-1", "1-7"]
    assert {each.path for each in server.heard} == {"/events/stream?event_type=t"}


async def test_answer_that_is_no_event_stream_is_not_requested_again(kind: str):
    async with talking(kind, envelope([])) as (server, caller):
        with pytest.raises(ServiceError, match="UNEXPECTED_ANSWER"):
            await caller.some("stream_events", 1)
        assert len(server.heard) == 1


async def test_missing_events_are_raised_unless_the_caller_accepts_them(kind: str):
    gap = 'id: 1-3\n: connected\n\nevent: gap\ndata: {"oldest_kept": "2026-11-21T08:00:00Z"}\n\n'
    async with talking(kind, stream(gap, event(9))) as (_, caller):
        with pytest.raises(EventsMissed) as missed:
            await caller.some("stream_events", 1, last_event_id="1-3")
        assert (missed.value.last_event_id, missed.value.oldest_kept) == (
            "1-3",
            datetime(2026, 11, 21, 8, tzinfo=UTC),
        )
        (found,) = await caller.some("stream_events", 1, last_event_id="1-3", accept_gap=True)
        assert found.id == 9
