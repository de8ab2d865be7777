"""Which addresses of browsers are called, and which rows of a list are stored."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.clients.browsers.gologin import GoLoginProfile
from app.clients.browsers.profile_browser import MAX_ROWS, checked_ws_url, is_profile_id, read_rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "name", "notes", "tags", "os", "browserType", "canBeRunning"), JSON)
)


@pytest.mark.parametrize(
    ("ws_url", "hosts"),
    [
        ("ws://127.0.0.1:9222/devtools/browser/x", ()),
        ("ws://[::1]:9222/devtools/browser/x", ()),
        ("ws://localhost:9222/devtools/browser/x", ()),
        ("ws://app.example:9222/devtools/browser/x", ()),
        ("ws://other.example:9222/devtools/browser/x", ("Other.example",)),
    ],
)
def test_an_address_on_an_allowed_host_is_taken(ws_url: str, hosts: tuple[str, ...]) -> None:
    assert checked_ws_url(ws_url, api_url="http://app.example:36912", hosts=hosts) == ws_url


@pytest.mark.parametrize(
    "ws_url",
    [
        "ws://169.254.169.254:80/x",
        "ws://127.0.0.1:99999/x",
        "ws://127.0.0.1:0/x",
        "ws://127.0.0.1/x",
        "ws://127.0.0.1:80@evil.example:80/x",
        "ws://127.0.0.1.evil.example:80/x",
        "http://127.0.0.1:80/x",
        "ws://[::1:80/x",
        "ws://127.0.0.1:" + "9" * 5000 + "/x",
        "ws://127.0.0.1:٣٣/x",
        "",
    ],
)
def test_address_on_another_host_is_refused(ws_url: str) -> None:
    with pytest.raises(ValueError, match="the browser's address"):
        checked_ws_url(ws_url, api_url="http://app.example:36912", hosts=())


@given(st.text(st.characters(codec=None)) | st.from_regex(r"ws://[^/]*:\d*/.*"))
def test_an_address_is_usable_or_refused(ws_url: str) -> None:
    with suppress(ValueError):
        assert checked_ws_url(ws_url, api_url="http://localhost:1", hosts=()).isascii()


@given(st.lists(FIELDS | JSON, max_size=5))
def test_every_row_is_storable_or_skipped(rows: list[object]) -> None:
    good, skipped = read_rows(GoLoginProfile, rows, "id")
    assert len(good) + len(skipped) == len(rows)
    for row in good:
        assert is_profile_id(row.id)
        texts = [row.id, row.name, row.notes or "", row.os or "", row.browser_type or "", *row.tags]
        assert all("\x00" not in text and text.encode() is not None for text in texts)
    assert all(text.isascii() and text.isprintable() for text in skipped)


def test_a_page_of_too_many_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="rows on a page"):
        read_rows(GoLoginProfile, [{}] * (MAX_ROWS + 1), "id")
