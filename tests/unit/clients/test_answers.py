"""Any bytes can be read as an answer."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.clients.answers import fields_in, json_or_none

FORM = "application/x-www-form-urlencoded; charset=utf-8"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "\u00e9"}'.encode("utf-16"), {"a": "\u00e9"}),
        (b'{"a": "caf\xe9"}', {"a": "caf\ufffd"}),
        (b'{"a": "two\nlines"}', {"a": "two\nlines"}),
        (b'{"a": ' + b"9" * 5000 + b"}", {"a": float("inf")}),
        (b"[" * 200_000, None),
        (b"[" * 101 + b"]" * 101, None),
        (b'{"a":' * 60 + b"[" * 41 + b"]" * 41 + b"}" * 60, None),
        (b"[" * 3 + b"]" * 3, [[[]]]),
        (b"7", 7),
        (b'{"a":' * 200_000, None),
        (b'{"a": ', None),
        (b"", None),
        (b"<html>", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_body_is_read_or_is_nothing(content: bytes, value: Any):
    assert json_or_none(content) == value


@pytest.mark.parametrize(
    ("content", "content_type", "fields"),
    [
        (b'{"a": "b"}', "application/json", {"a": "b"}),
        (b'{"a": "b"}', "text/html", {"a": "b"}),
        (b"a=b&c=d%20e", FORM, {"a": "b", "c": "d e"}),
        (b"\xef\xbb\xbfa=b", "text/plain", {"a": "b"}),
        (b"a=b", "", {"a": "b"}),
        (b"<a href='?x&a=b'>", "text/html", {}),
        (b"a=b", "application/json", {}),
        (b"[1]", FORM, {}),
        (b"&".join(b"a=b" for _ in range(101)), FORM, {}),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_form_is_read_where_the_type_allows_one(content: bytes, content_type: str, fields: dict[str, Any]):
    assert fields_in(content, content_type) == fields


@given(st.binary(), st.sampled_from(["", FORM, "application/json"]))
def test_no_bytes_raise(content: bytes, content_type: str):
    assert isinstance(fields_in(content, content_type), dict)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(_JSON)
def test_every_json_value_comes_as_it_was_sent(value: Any):
    assert json_or_none(json.dumps(value).encode()) == value
