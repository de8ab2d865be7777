"""One way to write an account's handle, whoever wrote it."""

import pytest

from app.services.profiles.account_rule import NOBODY, AccountRule
from app.utils.handles import bare_handle, normalize_handle, normalize_pattern

RULE = AccountRule(source="notes", pattern=r"account=(?P<account>.+)")


@pytest.mark.parametrize("value", ["Ann_L", "@ann_l", " ann_l\n", "ann\u200b_l\ufeff"])
def test_requests_patterns_and_profiles_give_the_same_account(value: str):
    assert bare_handle(value) == normalize_handle(value) == normalize_pattern(value) == "ann_l"
    assert RULE.find_owner("", {"notes": f"account={value.strip()}"}).account_id == "ann_l"


@pytest.mark.parametrize(
    "value", ["", "@", "@@ann", "ann\x00l", "ann l", "a" * 65, "ünn", "\u212aann", "\uff41nn"]
)
def test_impossible_handle_and_look_alike_are_refused(value: str):
    with pytest.raises(ValueError, match="must be an account's handle"):
        normalize_handle(value)
    assert RULE.find_owner("", {"notes": f"account={value}"}) == NOBODY


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
