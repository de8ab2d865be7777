"""The rule that says whose profile it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings
from app.services.profiles.account_rule import NOBODY, AccountRule, Owner

handles = st.from_regex(r"[A-Za-z0-9_]{1,15}", fullmatch=True)
DEFAULT = Settings.model_fields["profile_rule_pattern"].default


def account_of(name: str) -> str | None:
    return AccountRule(source="name", pattern=DEFAULT).find_owner(name, {}).account_id


@pytest.mark.parametrize(
    ("name", "account"),
    [
        ("my_account", "my_account"),
        ("@My_Account", "my_account"),
        ("two words", None),
        ("a" * 16, None),
        ("", None),
    ],
)
def test_default_rule_takes_the_name_as_handle(name: str, account: str | None):
    assert AccountRule(source="name", pattern=DEFAULT).find_owner(name, {}).account_id == account


def test_notes_may_name_account_and_app():
    rule = AccountRule(source="notes", pattern=r"account=(?P<account>\w+)(?:.*app=(?P<app>\w+))?")
    notes = {"notes": "bought in May; account=Anna app=AIOTT2"}
    assert rule.find_owner("whatever", notes) == Owner(account_id="anna", api_app="AIOTT2")
    assert rule.find_owner("whatever", {"notes": "account=Anna"}) == Owner(account_id="anna")
    assert rule.find_owner("anna", {"notes": None}) == NOBODY


def test_the_first_tag_that_matches_counts():
    rule = AccountRule(source="tag", pattern=r"^x:(?P<account>\w+)$")
    assert rule.find_owner("n", {"tags": ["vip", "x:anna", "x:berta"]}) == Owner(account_id="anna")
    assert rule.find_owner("n", {}) == NOBODY


def test_no_rule_means_that_only_links_count():
    assert AccountRule(source="none", pattern=DEFAULT).find_owner("anna", {"tags": ["anna"]}) == NOBODY


@given(handles)
def test_a_handle_is_the_account_in_lower_case(handle: str):
    assert account_of(handle) == account_of(f"@{handle}") == handle.lower()


@given(st.text())
def test_an_account_is_always_a_bare_lower_case_handle(name: str):
    account = account_of(name)
    assert account is None or (account == account_of(account) and account.lower() in name.lower())


@pytest.mark.parametrize(
    "name", ["", "@", "@@a", "two words", "a-b", "a@b", " a", "x" * 16, "ünicode", "Profile #1"]
)
def test_other_name_stands_for_no_account(name: str):
    assert account_of(name) is None
