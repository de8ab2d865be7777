"""Which request ids of callers go into logs and rows."""

import uuid

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.utils.request_id import accept_request_id, current_request_id


@pytest.mark.parametrize(
    "value", ["a", "req-1", "A.b_c:d-9", "x" * 128, "00000000-0000-4000-8000-000000000000"]
)
def test_a_harmless_id_is_kept(value: str):
    assert accept_request_id(value) == value


@pytest.mark.parametrize(
    "value", [None, "", " ", "a b", "x" * 129, "a\n", "a\r\nX-Other: 1", '"', "é", "a/b"]
)
def test_invalid_id_is_replaced(value: str | None):
    assert uuid.UUID(accept_request_id(value)).version == 4


@given(st.text())
def test_accepted_id_is_accepted_again(value: str):
    accepted = accept_request_id(value)
    assert accept_request_id(accepted) == accepted
    assert accepted.isprintable()
    assert accepted.isascii()


def test_minted_ids_differ():
    assert accept_request_id(None) != accept_request_id(None)


def test_the_bound_id_is_current():
    assert current_request_id() is None
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        assert current_request_id() == "r-1"
    assert current_request_id() is None
