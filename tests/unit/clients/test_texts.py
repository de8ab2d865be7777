import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.clients.texts import error_words, storable, without_tags


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <b>bold</b> word", "a bold word"),
        ("<!doctype html><title>T</title><h1>Bad\n gateway</h1>", "T Bad gateway"),
        ("<SCRIPT type=x>var a = '<p>'</SCRIPT>after", "after"),
        ("<style>p {}</style>x<script>never closed", "x"),
        ("cut <a href='", "cut"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("", ""),
    ],
)
def test_tags_go_and_words_stay(text: str, expected: str):
    assert without_tags(text) == expected


@given(st.integers(0, 600), st.text("x <>/", max_size=20))
def test_no_part_of_a_secret_is_left_wherever_it_stands(before: int, after: str):
    words = error_words("x" * before + "S3CRET-" * 3 + after, secret="S3CRET-" * 3)
    assert "S3" not in words
    assert len(words) <= 500


def test_empty_message_is_described_in_words():
    assert error_words(" <p></p> ", secret="") == "no message"


@given(st.text(st.characters(exclude_categories=())))
def test_stored_text_can_be_stored(text: str):
    kept = storable(text)
    assert "\x00" not in kept
    assert kept.encode().decode() == kept == kept.strip()


def test_storable_text_stays():
    assert storable(" 🦊 Ärger\n") == "🦊 Ärger"


def test_stored_text_holds_no_invisible_characters():
    assert storable("\ufeff Sh\u200bop\u202e 1\x00\ud800 ") == "Shop 1"
