"""The client's calls without their I/O: a test says when an answer comes, and who calls meanwhile."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.client import (
    AuthorizationFailed,
    ServiceError,
    ServiceUnreachable,
    WaitTimeout,
    calls,
    exchange,
    tokens,
)
from app.client.answers import StreamedEvent
from app.client.calls import Calls
from app.client.exchange import Answer, Flow, Request, open_envelope
from app.client.reading import Stream
from tests.fixtures.client_answers import BATCH, SESSION, TOKEN

GONE = Answer(failure="ConnectError")


class Clock:
    """For a client alone; its wall clock goes on."""

    time = staticmethod(time.time)

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (calls, exchange, tokens):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def client(clock: Clock) -> Calls:
    return Calls("http://service", "key", timeout=30, token_margin=100)


def said(data: Any, status: int = 200, code: str | None = None) -> Answer:
    content = {"data": data, "error": code, "error_code": code, "timestamp": "2026-11-21T08:00:00Z"}
    return Answer(status, body=json.dumps(content).encode())


def ended(flow: Flow[Any], clock: Clock, *answers: Answer) -> Any:
    """What comes of it; the last answer comes again and again. One that is lost takes all the time it may."""
    left, answer = list(answers), None
    try:
        while True:
            step = flow.send(answer)
            answer = None
            if isinstance(step, float):
                clock.now += step
                continue
            answer = left.pop(0) if len(left) > 1 else left[0]
            clock.now += step.seconds if answer.failure else 0.0
    except StopIteration as end:
        return end.value


def asks(flow: Flow[Any]) -> bool:
    """The service; else it waits for another one who does."""
    return isinstance(next(flow), Request)


def resumed(flow: Flow[Any], answer: Answer | None = None) -> Any:
    """Its result: it must not ask."""
    with pytest.raises(StopIteration) as end:
        flow.send(answer)
    return end.value.value


def token(name: str) -> Answer:
    return said({**TOKEN, "access_token": name})


@pytest.mark.parametrize(
    ("call", "argument", "seen"),
    [(Calls.wait, "s", SESSION), (Calls.wait_for_batch, "b", BATCH)],
    ids=["wait", "wait_for_batch"],
)
def test_a_service_that_goes_away_once_it_was_seen_is_a_wait_that_ends(
    client: Calls, clock: Clock, call: Callable[..., Flow[Any]], argument: str, seen: dict[str, Any]
):
    with pytest.raises(WaitTimeout) as late:
        ended(call(client, argument, timeout=5), clock, said(seen), GONE)
    assert late.value.seen.status == seen["status"]
    with pytest.raises(ServiceUnreachable):
        ended(call(client, argument, timeout=5), clock, GONE)
    with pytest.raises(ServiceError, match="FORBIDDEN"):
        ended(call(client, argument, timeout=5), clock, said(seen), said(None, 403, "FORBIDDEN"))


def test_service_without_waits_is_not_polled_without_pause(client: Calls, clock: Clock):
    flow, asked = Calls.wait(client, "s", timeout=1.5), 0
    with pytest.raises(WaitTimeout):
        step = next(flow)
        while True:
            is_pause = isinstance(step, float)
            clock.now += step if is_pause else 0.0
            asked += not is_pause
            step = flow.send(None if is_pause else said(SESSION))
    assert (asked, clock.now) == (3, 1.5)


def test_timeout_carries_the_session_seen_last(client: Calls, clock: Clock):
    with pytest.raises(WaitTimeout) as late:
        ended(Calls.authorize_and_wait(client, "anna", "A", timeout=5), clock, said(SESSION), GONE)
    assert late.value.seen.session_id == SESSION["session_id"]
    failed = {**SESSION, "status": "failed", "completed_at": "2026-11-21T08:01:00Z"}
    with pytest.raises(AuthorizationFailed):
        ended(Calls.authorize_and_wait(client, "anna", "A"), clock, said(SESSION), said(failed))


@pytest.mark.parametrize("timeout", [1.0, 300.0])
def test_the_shorter_one_of_two_timeouts_holds_for_asking(client: Calls, clock: Clock, timeout: float):
    with pytest.raises(ServiceUnreachable):
        ended(Calls.authorize_and_wait(client, "anna", "A", timeout=timeout), clock, GONE)
    assert clock.now <= min(timeout, 30) + 0.1


def test_a_token_that_came_while_another_thread_verifies_is_forgotten(client: Calls, clock: Clock):
    verified = said({"provider_user_id": "1", "username": "anna", "is_same_account": True})
    verifying = Calls.verify(client, "@Anna", "A")
    assert asks(verifying)
    ended(Calls.token(client, "anna", "A"), clock, token("refused"))
    ended(Calls.token(client, "anna", "B"), clock, token("of another app"))
    assert resumed(verifying, verified).is_same_account
    assert ended(Calls.token(client, "anna", "A"), clock, token("new")).access_token == "new"
    assert resumed(Calls.token(client, "anna", "B")).access_token == "of another app"


def test_a_token_that_was_asked_for_before_it_was_forgotten_is_not_kept(client: Calls):
    """Nor waited for by those who come afterwards."""
    early, waiting, late = (Calls.token(client, "anna", "A") for _ in range(3))
    assert [asks(early), asks(waiting)] == [True, False]
    client.forget("@Anna")
    assert [asks(late), asks(waiting)] == [True, False]
    assert resumed(early, token("refused")).access_token == "refused"
    assert not isinstance(waiting.send(None), Request), "the late one still asks"
    assert resumed(late, token("new")).access_token == "new"
    assert resumed(Calls.token(client, "anna", "A")).access_token == "new"
    client.forget("anna")
    assert asks(Calls.token(client, "anna", "A"))


def test_a_failed_verification_forgets_the_token_too(client: Calls, clock: Clock):
    ended(Calls.token(client, "anna", "A"), clock, token("refused"))
    with pytest.raises(ServiceError, match="AWAY"):
        ended(Calls.verify(client, "anna", "A"), clock, said(None, 503, "AWAY"))
    assert asks(Calls.token(client, "anna", "A"))


def test_waiters_for_a_token_get_the_error_of_the_caller_that_asks(client: Calls):
    first, more = Calls.token(client, "anna", "A"), [Calls.token(client, "anna", "A") for _ in range(3)]
    demanding, modest = Calls.token(client, "anna", "A", min_ttl=9), Calls.token(client, "anna", "A")
    assert [asks(flow) for flow in (first, *more, demanding)] == [True, False, False, False, False]
    errors = []
    for flow, answer in (
        (first, said(None, 404, "TOKEN_NOT_FOUND")),
        *((flow, None) for flow in (*more, demanding)),
    ):
        with pytest.raises(ServiceError, match="TOKEN_NOT_FOUND") as caught:
            flow.send(answer)
        errors.append(caught.value)
    assert len(set(map(id, errors))) == 5, "each has a traceback of its own"
    assert {error.status for error in errors} == {404}
    assert asks(modest), "who comes later asks anew"


def test_error_of_a_stricter_request_is_not_shared(client: Calls):
    demanding, modest = Calls.token(client, "anna", "A", min_ttl=9), Calls.token(client, "anna", "A")
    assert [asks(demanding), asks(modest)] == [True, False]
    with pytest.raises(ServiceError, match="TOKEN_EXPIRED"):
        demanding.send(said(None, 409, "TOKEN_EXPIRED"))
    assert asks(modest)


def test_caller_that_gives_up_leaves_the_request_to_the_next(client: Calls):
    first, second = Calls.token(client, "anna", "A"), Calls.token(client, "anna", "A")
    assert [asks(first), asks(second)] == [True, False]
    first.close()
    assert asks(second)


def test_a_stream_that_ends_is_opened_again_unless_it_never_says_anything():
    stream = Stream(StreamedEvent, {}, None, give_up_after=0.0, accept_gap=False)
    stream.request()
    assert list(stream.take(b"id: 1-0\n: connected\n\n")) == []
    assert stream.pause() > 0
    stream.request()
    with pytest.raises(ServiceUnreachable):
        stream.pause()


@pytest.mark.parametrize(
    "path",
    ["http://other/x", "//other/x", "apps", "", "/a/../b", "/a/.", "/a/%2E%2e/b", "/a/..%2fb", "/%2fother"],
)
def test_the_key_is_sent_to_nobody_else_and_a_path_is_what_it_says(client: Calls, path: str):
    with pytest.raises(ValueError, match="no path of the service"):
        next(Calls.call(client, "GET", path))


def test_an_id_cannot_become_another_route(client: Calls):
    for name in (".", "..", "../accounts"):
        with pytest.raises(ValueError, match="no path"):
            next(Calls.cancel(client, name))
    assert asks(Calls.session(client, "none/such..."))
    assert asks(Calls.call(client, "GET", "/events?text=http://other/../x"))


@pytest.mark.parametrize(
    ("headers", "wait"), [({"Retry-After": "7"}, 7), ({"Retry-After": "9" * 5000}, 3600), ({}, None)]
)
def test_the_wait_that_an_answer_asks_for_has_a_ceiling(headers: dict[str, str], wait: float | None):
    body = json.dumps({"error_code": "X", "error": "x"}).encode()
    _, error = open_envelope(Answer(status=429, headers=headers, body=body))
    assert error is not None
    assert error.retry_after == wait


def test_a_deep_answer_is_an_unexpected_one():
    _, error = open_envelope(Answer(status=200, headers={}, body=b"[" * 200_000))
    assert error is not None
    assert error.code == "UNEXPECTED_ANSWER"
