"""Which accounts and apps a restricted key is for; the same in Python and in both databases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import column

from app.services.shared.access import EVERYTHING, AccessScope
from app.utils.exceptions import OutOfReachException
from app.utils.handles import normalize_pattern

APPS = AccessScope.from_lists(["A1"], [])
SHOPS = AccessScope.from_lists([], ["shop_*", "anna"])

handles = st.text("ab_*", min_size=1, max_size=5)
accounts = st.text("ab_", min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("access", "account", "app", "covered"),
    [
        (EVERYTHING, None, None, True),
        (EVERYTHING, "bob", "A2", True),
        (APPS, "bob", "A1", True),
        (APPS, None, "A1", True),
        (APPS, "bob", "A2", False),
        (APPS, "bob", None, False),
        (SHOPS, "shop_1", None, True),
        (SHOPS, "shop_", "A2", True),
        (SHOPS, "shopx1", "A1", False),
        (SHOPS, "anna", "A1", True),
        (SHOPS, "anna1", "A1", False),
        (SHOPS, None, "A1", False),
        (AccessScope.from_lists(["A1"], ["anna"]), "anna", "A2", False),
    ],
)
def test_scope_covers_its_accounts_and_apps(
    access: AccessScope, account: str | None, app: str | None, covered: bool
):
    assert access.covers(account, app) is covered


def test_uncovered_account_or_app_is_refused_with_its_name():
    SHOPS.require("shop_1", "A1")
    SHOPS.require_account("anna")
    with pytest.raises(OutOfReachException, match="not for bob in A1"):
        SHOPS.require("bob", "A1")
    with pytest.raises(OutOfReachException, match=r"not for bob$"):
        SHOPS.require_account("bob")
    with pytest.raises(OutOfReachException, match="what concerns all accounts and apps"):
        SHOPS.require(None, None)


def test_a_reach_that_is_named_and_goes_further_is_refused():
    within = AccessScope.from_lists(["A1"], ["shop_*"])
    within.require_all(AccessScope.from_lists(["A1"], ["shop_1"]))
    for other, named in (
        (AccessScope.from_lists(["A1"], ["bob", "carl"]), "not for bob or carl in A1"),
        (AccessScope.from_lists([], ["shop_1"]), "not for shop_1 in all apps"),
        (EVERYTHING, "not for all accounts in all apps"),
    ):
        with pytest.raises(OutOfReachException, match=f"{named}$"):
            within.require_all(other)


def test_names_without_a_star_are_looked_up_at_once():
    access = AccessScope.from_lists([], ["anna", "bob", "shop_*", "*_x"])
    query = str(access.condition(column("account_id"), column("api_app")))
    assert (query.count(" IN "), query.count(" LIKE ")) == (1, 2)


@pytest.mark.parametrize(
    ("outer", "inner", "included"),
    [
        (EVERYTHING, SHOPS, True),
        (SHOPS, EVERYTHING, False),
        (APPS, APPS, True),
        (APPS, AccessScope.from_lists(["A1", "A2"], []), False),
        (SHOPS, APPS, False),
        (SHOPS, AccessScope.from_lists(["A1"], ["shop_1", "shop_2*"]), True),
        (SHOPS, AccessScope.from_lists([], ["shop*"]), False),
        (SHOPS, AccessScope.from_lists([], ["shop_*", "bob"]), False),
        (AccessScope.from_lists([], ["a*b"]), AccessScope.from_lists([], ["a*c*b"]), True),
        (AccessScope.from_lists([], ["a*b"]), AccessScope.from_lists([], ["a*b*"]), False),
    ],
)
def test_scope_includes_narrower_ones(outer: AccessScope, inner: AccessScope, included: bool):
    assert outer.includes(inner) is included


@given(st.lists(handles, max_size=3), st.lists(handles, max_size=3), accounts)
def test_included_scope_covers_no_more(outer: list[str], inner: list[str], account: str):
    wide, narrow = AccessScope.from_lists([], outer), AccessScope.from_lists([], inner)
    if wide.includes(narrow) and narrow.covers(account, "A1"):
        assert wide.covers(account, "A1")


def test_a_pattern_is_written_as_handles_are():
    assert normalize_pattern(" @Shop_*") == "shop_*"
    for bad in ("", "@", "a b", "a%", "a?", "[ab]", "x" * 65):
        with pytest.raises(ValueError, match="must be an account's handle"):
            normalize_pattern(bad)


PATTERNS = st.lists(st.text("ab*", min_size=1, max_size=4), max_size=3).map(tuple)
REACHES = st.builds(AccessScope, st.frozensets(st.sampled_from("XY"), max_size=2), PATTERNS)


@given(REACHES, REACHES, st.text("ab", max_size=5), st.sampled_from("XYZ"))
def test_included_scope_covers_nothing_more_in_any_app(
    outer: AccessScope, inner: AccessScope, account: str, app: str
):
    if outer.includes(inner) and inner.covers(account, app):
        assert outer.covers(account, app)
    assert outer.includes(outer)
    assert EVERYTHING.includes(outer)
