"""A stored secret opens only with its key, unharmed, and in its own place."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.utils.crypto import KeyRing, decode_key, find_key_id, generate_key
from app.utils.exceptions import DecryptionException

PLACE = "credentials/alice/AIOTT1/access_token"
OLD, NEW = decode_key(generate_key()), decode_key(generate_key())
ring = KeyRing({"old": OLD})


@given(st.text(), st.text(min_size=1))
def test_sealed_value_opens(plaintext: str, place: str):
    assert ring.decrypt(ring.encrypt(plaintext, associated_data=place), associated_data=place) == plaintext


def test_the_sealed_value_hides_the_clear_one():
    sealed = ring.encrypt("clear-text", associated_data=PLACE)
    assert "clear-text" not in sealed
    assert b"clear-text" not in base64.b64decode(sealed.partition(":")[2])


def test_equal_values_are_sealed_differently():
    assert len({ring.encrypt("same", associated_data=PLACE) for _ in range(20)}) == 20


@pytest.mark.parametrize("place", [PLACE.replace("alice", "bob"), PLACE.replace("access", "refresh"), ""])
def test_a_value_copied_to_another_place_does_not_open(place: str):
    with pytest.raises(DecryptionException):
        ring.decrypt(ring.encrypt("token", associated_data=PLACE), associated_data=place)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_anywhere_is_noticed(position: int, difference: int):
    key_id, _, encoded = ring.encrypt("a token", associated_data=PLACE).partition(":")
    raw = bytearray(base64.b64decode(encoded))
    raw[position % len(raw)] ^= difference
    with pytest.raises(DecryptionException):
        ring.decrypt(f"{key_id}:{base64.b64encode(raw).decode()}", associated_data=PLACE)


@pytest.mark.parametrize(
    "value", ["", "old", "old:", "old:AAAA", "old:not base64!", ":", "plain token", "old:é"]
)
def test_a_damaged_value_does_not_open(value: str):
    with pytest.raises(DecryptionException):
        ring.decrypt(value, associated_data=PLACE)


def test_a_value_of_an_unknown_key_does_not_open():
    sealed = KeyRing({"gone": OLD}).encrypt("token", associated_data=PLACE)
    with pytest.raises(DecryptionException):
        ring.decrypt(sealed, associated_data=PLACE)


def test_the_key_id_alone_opens_nothing():
    sealed = KeyRing({"old": NEW}).encrypt("token", associated_data=PLACE)
    with pytest.raises(DecryptionException):
        ring.decrypt(sealed, associated_data=PLACE)


def test_the_first_key_writes_and_every_key_reads():
    rotated = KeyRing({"new": NEW, "old": OLD})
    written_before = ring.encrypt("token", associated_data=PLACE)
    written_after = rotated.encrypt("token", associated_data=PLACE)
    assert written_before.startswith("old:")
    assert written_after.startswith("new:")
    assert rotated.decrypt(written_before, associated_data=PLACE) == "token"
    assert rotated.decrypt(written_after, associated_data=PLACE) == "token"


def test_the_keys_are_known_by_their_ids_the_writing_one_first():
    rotated = KeyRing({"new": NEW, "old": OLD})
    assert (rotated.writing_id, rotated.ids) == ("new", ("new", "old"))
    assert find_key_id(rotated.encrypt("token", associated_data=PLACE)) == "new"


@pytest.mark.parametrize("value", ["", "plain-token", f"{'x' * 33}:AAAA", "with space:AAAA", ":AAAA"])
def test_value_of_another_form_has_no_key_id(value: str):
    """It may be a token in clear, and is not shown."""
    assert find_key_id(value) is None


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused(size: int):
    with pytest.raises(ValueError, match=f"32 bytes, this one has {size}"):
        decode_key(base64.urlsafe_b64encode(bytes(size)).decode())


@pytest.mark.parametrize("text", ["abc", "ä" * 44])
def test_a_key_that_is_not_base64_is_refused_without_being_quoted(text: str):
    with pytest.raises(ValueError, match="base64") as caught:
        decode_key(text)
    assert text not in str(caught.value)
