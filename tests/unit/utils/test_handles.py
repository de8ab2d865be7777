"""Handles as they are stored."""

import pytest

from app.utils.handles import normalize_handle, normalize_pattern


@pytest.mark.parametrize("value", ["1.23457E+14", "@1.23457e+14", "1E+05", "2e+10"])
def test_a_number_that_a_spreadsheet_rounded_is_no_handle(value: str):
    with pytest.raises(ValueError, match="spreadsheet"):
        normalize_handle(value)


@pytest.mark.parametrize("value", ["123457", "1e14", "e+14", "1.5", "anna+1@social.example"])
def test_a_handle_of_digits_is_taken(value: str):
    assert normalize_handle(value) == value


def test_format_characters_are_dropped():
    assert normalize_handle("\ufeff@An\u200bna\u2060 ") == "anna"
    assert normalize_pattern("sh\u200bop_*") == "shop_*"
