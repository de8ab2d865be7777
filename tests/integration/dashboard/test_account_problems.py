"""Accounts without a working token on the operators' page: the state, the reason and what happens next."""

from datetime import timedelta

import pytest

from app.models import CredentialStatus, SessionStatus, utc_now
from app.services.keys.service import Scope
from app.services.shared.access import AccessScope
from app.utils.exceptions import ErrorCode
from tests.fixtures.api import Api
from tests.fixtures.dashboard import PageBrowser, page_browser, shown_text
from tests.fixtures.factories import new_credential, new_profile, new_session

pytestmark = pytest.mark.databases("sqlite", long="postgresql")

PATH = "/ui/accounts"


async def add_accounts(api: Api) -> None:
    """Add one account of each state."""
    person = new_profile(account_id="person")
    session = new_session(person, status=SessionStatus.NEEDS_ATTENTION)
    session.completed_at, session.error_code = utc_now(), ErrorCode.LOGIN_REQUIRED
    broken = {"status": CredentialStatus.REAUTHORIZATION_REQUIRED, "refresh_error_code": "INVALID_GRANT"}
    soon = utc_now() + timedelta(minutes=5)
    async with api.context.database.transaction() as db:
        db.add_all(
            [
                new_credential("whole"),
                new_credential("soon", token_expires_at=soon),
                new_credential("broken", **broken),
                new_profile(account_id="never", api_app="AIOTT1"),
                person,
                session,
            ]
        )


async def test_accounts_are_listed_by_state_with_their_problem(api: Api, browser: PageBrowser):
    await add_accounts(api)
    for state, account, sentence in (
        ("working", "whole", "working –"),
        ("expiring", "soon", "The access token expires soon."),
        ("broken", "broken", "INVALID_GRANT The provider refused the refresh token: it is spent or revoked."),
        ("needs_person", "person", "Resume the session when a person is present."),
        ("never_authorized", "never", "TOKEN_NOT_FOUND The account has a profile and no tokens."),
    ):
        page = await browser.get(f"{PATH}?state={state}")
        text = shown_text(page).partition("Last refresh")[2]
        assert f"@{account} AIOTT1 {state.replace('_', ' ')}" in text, state
        assert sentence in text, state
        assert text.count("@") == 1, state
        one = shown_text(await browser.get(f"{PATH}/{account}"))
        assert sentence.removesuffix(" –") in one, account
    everything = await browser.shows(PATH)
    assert all(f">@{account}<" in everything for account in ("whole", "soon", "broken"))
    assert "The provider refused the refresh token" in everything


@pytest.mark.databases("sqlite")
async def test_choice_of_a_state_leaves_out_what_it_does_not_have(api: Api, browser: PageBrowser):
    answer = await browser.get(f"{PATH}?state=broken&sort=refreshed_at&order=desc&status=active&text=a")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{PATH}?state=broken&text=a")
    assert "No account matches these filters" in await browser.shows(answer.headers["Location"])


async def test_accounts_are_filtered_by_expiry(api: Api, browser: PageBrowser):
    await add_accounts(api)
    until = (utc_now() + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%S")
    answer = await browser.get(f"{PATH}?expires_until={until}&expires_since=&sort=refreshed_at")
    assert answer.headers["Location"] == f"{PATH}?expires_until={until.replace(':', '%3A')}"
    page = await browser.shows(answer.headers["Location"])
    assert (">@soon<" in page, ">@whole<" in page) == (True, False)
    assert f'value="{until}"' in page
    assert "1 account, page 1" in page


@pytest.mark.databases("sqlite")
async def test_restricted_key_sees_its_accounts_of_each_state(api: Api):
    await add_accounts(api)
    access = AccessScope.from_lists(["AIOTT1"], ["whole", "never"])
    key = (await api.key(Scope.SESSIONS_READ, access=access))["X-API-Key"]
    async with page_browser(api, key) as browser:
        for state in ("expiring", "broken", "needs_person"):
            assert "No account matches" in await browser.shows(f"{PATH}?state={state}"), state
        for account in ("soon", "broken", "person"):
            assert (await browser.get(f"{PATH}/{account}")).status_code == 403, account
        for account in ("whole", "never"):  # the key may look, and press nothing
            page = await browser.shows(f"{PATH}/{account}")
            assert "<button" not in page.partition("<main")[2], account
