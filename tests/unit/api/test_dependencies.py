"""`Prefer: wait=…` (RFC 7240)."""

from types import SimpleNamespace

import pytest

from app.api.dependencies import _preferred_wait

context = SimpleNamespace(settings=SimpleNamespace(max_wait=60.0))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=30", 30),
        ("wait=0", 0),
        ('wait="30"', 30),
        ("respond-async, wait=10", 10),
        ("wait=10, handling=lenient", 10),
        ("respond-async; foo=1, wait = 5", 5),
        ("wait=61", 60),
        ("wait=999999", 60),
    ],
)
async def test_the_wait_that_is_asked_for_is_kept_up_to_the_limit(header: str, seconds: float):
    assert await _preferred_wait(context, header) == seconds


@pytest.mark.parametrize(
    "header", [None, "", "wait", "wait=", "wait=-1", "wait=1.5", "wait=x", "await=30", "wait=1e3"]
)
async def test_other_preference_is_no_wait(header: str | None):
    assert await _preferred_wait(context, header) == 0


async def test_the_name_of_a_preference_has_no_case():
    assert await _preferred_wait(context, "Wait=30") == 30
