"""Passes for live views: each for one session at one process, once, for a minute."""

import time

import pytest

from app.services.live.passes import PASS_LIFETIME, LivePasses

HERE = {"session_id": "s", "process": "p"}


def test_pass_is_good_once():
    passes = LivePasses([b"secret"])
    value = LivePasses([b"secret"]).issue(**HERE)
    assert [passes.redeem(value, **HERE) for _ in range(2)] == [True, False]


def test_pass_of_any_known_secret_is_good():
    assert LivePasses([b"new", b"old"]).redeem(LivePasses([b"old"]).issue(**HERE), **HERE)


@pytest.mark.parametrize(
    ("secret", "at"),
    [
        (b"another", HERE),
        (b"secret", HERE | {"session_id": "t"}),
        (b"secret", HERE | {"process": "q"}),
    ],
)
def test_pass_for_something_else_is_refused(secret: bytes, at: dict[str, str]):
    assert not LivePasses([b"secret"]).redeem(LivePasses([secret]).issue(**at), **HERE)


@pytest.mark.parametrize("value", ["", ".", "..", "x.y.z", "9" * 400 + ".a.b", "ключ"])
def test_what_is_no_pass_is_refused(value: str):
    assert not LivePasses([b"secret"]).redeem(value, **HERE)


def test_pass_expires_and_cannot_be_made_longer(monkeypatch: pytest.MonkeyPatch):
    passes = LivePasses([b"secret"])
    value = passes.issue(**HERE)
    expires, _, rest = value.partition(".")
    assert not passes.redeem(f"{int(expires) + 3600}.{rest}", **HERE)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + PASS_LIFETIME + 1)
    assert not passes.redeem(value, **HERE)
