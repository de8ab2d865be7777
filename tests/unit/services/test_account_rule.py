"""The rule that says whose profile it is."""

import pytest

from app.config import Settings
from app.services.account_rule import NOBODY, AccountRule, Owner

DEFAULT = Settings.model_fields["profile_rule_pattern"].default


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
def test_by_default_the_name_is_the_handle(name: str, account: str | None):
    assert AccountRule(source="name", pattern=DEFAULT).owner_of(name, {}).account_id == account


def test_notes_may_name_account_and_app():
    rule = AccountRule(source="notes", pattern=r"account=(?P<account>\w+)(?:.*app=(?P<app>\w+))?")
    notes = {"notes": "bought in May; account=Anna app=AIOTT2"}
    assert rule.owner_of("whatever", notes) == Owner(account_id="anna", api_app="AIOTT2")
    assert rule.owner_of("whatever", {"notes": "account=Anna"}) == Owner(account_id="anna")
    assert rule.owner_of("anna", {"notes": None}) == NOBODY


def test_the_first_tag_that_matches_counts():
    rule = AccountRule(source="tag", pattern=r"^x:(?P<account>\w+)$")
    assert rule.owner_of("n", {"tags": ["vip", "x:anna", "x:berta"]}) == Owner(account_id="anna")
    assert rule.owner_of("n", {}) == NOBODY


def test_without_a_rule_only_links_count():
    assert AccountRule(source="none", pattern=DEFAULT).owner_of("anna", {"tags": ["anna"]}) == NOBODY
