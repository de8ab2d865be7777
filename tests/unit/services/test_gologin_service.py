"""Which account a profile's name stands for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.gologin_service import account_of

handles = st.from_regex(r"[A-Za-z0-9_]{1,15}", fullmatch=True)


@given(handles)
def test_a_handle_is_the_account_in_lower_case(handle: str):
    assert account_of(handle) == account_of(f"@{handle}") == handle.lower()


@given(st.text())
def test_an_account_is_always_a_bare_lower_case_handle(name: str):
    account = account_of(name)
    assert account is None or (account == account_of(account) and account.lower() in name.lower())


@pytest.mark.parametrize(
    "name", ["", "@", "@@a", "two words", "a-b", "a@b", "a\n", " a", "x" * 16, "ünicode", "Profile #1"]
)
def test_any_other_name_stands_for_none(name: str):
    assert account_of(name) is None
