"""Actions of the operators' page in a real browser, each followed by a look at what the service has made of it."""

import asyncio
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from sqlalchemy import select, update

from app.models import AuthorizationSession, Event, EventType, Profile, utc_now
from tests.e2e.harness import APP, ServiceHarness
from tests.e2e.operators import Operator
from tests.e2e.page_content import call
from tests.fixtures.chrome import complaints
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("dashboard")]

OPERATOR = "bootstrap"


# Sessions and batches


class TwoSessions:
    """The sessions of a batch of two accounts, of which one runs at a time."""

    def __init__(self, harness: ServiceHarness, batch_id: str) -> None:
        self._harness = harness
        self.batch_id = batch_id

    async def rows(self) -> tuple[AuthorizationSession, AuthorizationSession]:
        query = select(AuthorizationSession).where(AuthorizationSession.batch_id == self.batch_id)
        async with self._harness.reading() as db:
            first, second = (await db.scalars(query.order_by(AuthorizationSession.id))).all()
        return first, second

    async def state(self) -> list[tuple[str, int]]:
        """Return the status and the number of attempts of each."""
        return [(each.status.value, each.attempts) for each in await self.rows()]

    async def come_to(self, *expected: tuple[str, int]) -> None:
        async def are_there() -> bool:
            return await self.state() == list(expected)

        await eventually(are_there)

    async def first_reaches(self, stage: str) -> None:
        """Wait for the first to have its browser: a profile whose start is cancelled is kept until its lease ends."""
        await self._harness.reached((await self.rows())[0].session_id, stage)

    async def events(self, event_type: EventType) -> list[int]:
        """Return the number of the operator's events of each."""
        found = [await self._harness.events(each.session_id) for each in await self.rows()]
        asked = (event_type, OPERATOR)
        return [[(event.event_type, event.actor) for event in events].count(asked) for events in found]


async def test_operator_acts_on_all_sessions_that_match_and_on_their_batch(
    harness: ServiceHarness, driver: webdriver.Chrome, unused_accounts: Iterator[str]
):
    first, second = next(unused_accounts), next(unused_accounts)
    await harness.admin.set_fault("provider.consent", "hang", account=first)
    rows = [{"account_id": each, "api_app": APP} for each in (first, second)]
    made = await call(harness, "POST", "/authorize/batch", json={"rows": rows, "max_running": 1})
    sessions = TwoSessions(harness, made["batch_id"])
    await sessions.come_to(("in_progress", 1), ("pending", 0))
    await sessions.first_reaches("consent_given")
    operator = Operator(driver, harness.service.url)
    await asyncio.to_thread(operator.sign_in, harness.key)

    # One runs, one waits; the first confirmation is left by "Back".
    listed = f"?batch_id={sessions.batch_id}"
    await asyncio.to_thread(ask_for_all, operator, listed, "Cancel 2 sessions")
    await asyncio.to_thread(go_back, operator, listed)
    assert await sessions.state() == [("in_progress", 1), ("pending", 0)]
    await asyncio.to_thread(do_for_all, operator, listed, "Cancel 2 sessions")
    assert await sessions.state() == [("cancelled", 1), ("cancelled", 0)]
    await harness.nothing_left(first)

    # The first comes to need a person, the browser of the second does not start.
    await harness.admin.clear_faults(first)
    await harness.admin.set_fault("provider.authorize", "signed_out_redirect", account=first)
    await harness.admin.set_fault("local.start", "status", account=second)
    await asyncio.to_thread(do_for_all, operator, f"{listed}&status=cancelled", "Retry 2 sessions")
    await sessions.come_to(("needs_attention", 2), ("failed", 1))
    assert await sessions.events(EventType.AUTHORIZATION_RETRY_REQUESTED) == [1, 1]

    batch = f"/ui/batches/{sessions.batch_id}"
    await asyncio.to_thread(press, operator, batch, "Retry, also those that need a person", "2 sessions")
    await sessions.come_to(("needs_attention", 3), ("failed", 2))

    # The second is not for this action.
    await asyncio.to_thread(do_for_all, operator, listed, "Resume 1 session")
    await sessions.come_to(("in_progress", 4), ("failed", 2))
    assert await sessions.events(EventType.AUTHORIZATION_RESUMED) == [1, 0]
    assert (await sessions.rows())[0].awaits_person

    # It waits for its place in the batch, which the first has.
    await asyncio.to_thread(press, operator, batch, "Retry failed", "1 session of")
    assert await sessions.state() == [("in_progress", 4), ("pending", 2)]
    await sessions.first_reaches("browser_attached")
    await asyncio.to_thread(cancel_batch, operator, batch)
    await sessions.come_to(("cancelled", 4), ("cancelled", 2))
    ended = await call(harness, "GET", f"/batches/{sessions.batch_id}")
    assert (ended["status"], ended["counts"]["cancelled"]) == ("cancelled", 2)
    await harness.nothing_left(first)
    assert complaints(driver) == []


def ask_for_all(operator: Operator, query: str, label: str) -> None:
    """`label`: what is asked for, with the number that must be shown."""
    operator.open(f"/ui/sessions{query}")
    operator.driver.find_element(By.LINK_TEXT, f"{label.split(maxsplit=1)[0]} all").click()
    operator.sees("h1", f"{label}?")


def go_back(operator: Operator, query: str) -> None:
    operator.driver.find_element(By.LINK_TEXT, "Back").click()
    operator.sees("h1", "Sessions")
    assert operator.path == f"/ui/sessions{query}"


def do_for_all(operator: Operator, query: str, label: str) -> None:
    ask_for_all(operator, query, label)
    operator.act(label, f"{label.split()[1]} session")
    assert operator.path.startswith("/ui/sessions?")


def press(operator: Operator, path: str, label: str, notice: str) -> None:
    operator.open(path)
    operator.act(label, notice)


def confirm(operator: Operator, link: str, label: str, notice: str) -> None:
    """Follow a link of the page that asks first, and press its button."""
    operator.driver.find_element(By.LINK_TEXT, link).click()
    operator.sees(".danger", label)
    operator.act(label, notice)


def cancel_batch(operator: Operator, path: str) -> None:
    operator.open(path)
    confirm(operator, "Cancel", "Cancel the batch", "The batch is cancelled.")


# Accounts, profiles and the fleet


async def test_operator_acts_on_an_account_its_profile_and_the_fleet(
    harness: ServiceHarness, driver: webdriver.Chrome, account: str
):
    operator = Operator(driver, harness.service.url)
    await asyncio.to_thread(operator.sign_in, harness.key)
    await resume_a_new_session(harness, operator, account)
    await refresh_and_revoke(harness, operator, account)
    await link_and_release(harness, operator, account)
    await open_and_close_the_breaker(harness, operator)
    await create_rotate_and_revoke_a_key(harness, operator)
    await asyncio.to_thread(change_theme, operator)
    # The browser and htmx tell of the answer to the verification, which is refused for the limit.
    assert [each for each in complaints(driver) if f"/ui/accounts/{account}/verify" not in each] == []


async def has_event(harness: ServiceHarness, event_type: EventType, **values: str) -> bool:
    query = select(Event.id).filter_by(event_type=event_type, actor=OPERATOR, **values)
    async with harness.reading() as db:
        return await db.scalar(query.limit(1)) is not None


async def resume_a_new_session(harness: ServiceHarness, operator: Operator, account: str) -> None:
    """The account has no tokens yet. Its session needs a person, who has acted elsewhere."""
    await harness.admin.set_fault("provider.authorize", "signed_out_redirect", account=account)
    await asyncio.to_thread(press, operator, f"/ui/accounts/{account}", APP, "The session is requested.")
    await asyncio.to_thread(operator.sees, "#session[data-status=needs_attention]")
    async with harness.reading() as db:
        session_id = str(
            await db.scalar(select(AuthorizationSession.session_id).filter_by(account_id=account))
        )
    await harness.admin.clear_faults(account)
    await asyncio.to_thread(press, operator, f"/ui/sessions/{session_id}", "Resume", "act in its window now")
    ended = await harness.ended(session_id)
    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    assert await has_event(harness, EventType.AUTHORIZATION_RESUMED, session_id=session_id)


async def refresh_and_revoke(harness: ServiceHarness, operator: Operator, account: str) -> None:
    """In between the provider limits the account, and the operator lifts the limit."""
    path = f"/ui/accounts/{account}"
    before = (await harness.tokens(account)).access_token.get_secret_value()
    await asyncio.to_thread(
        press, operator, path, "Refresh", f"The tokens of @{account} in {APP} are refreshed."
    )
    after = (await harness.tokens(account)).access_token.get_secret_value()
    assert (await harness.owner(before), await harness.owner(after)) == (None, account)

    await harness.admin.set_fault("provider.me", "rate_limited", account=account, times=1)

    def be_limited_and_resume() -> None:
        operator.open(path)
        operator.button("Verify").click()
        operator.sees("#problem .problem")
        operator.open("/ui/apps")
        operator.driver.find_element(By.CSS_SELECTOR, f"[aria-label='Resume {APP}']").click()
        operator.sees(".notice", f"{APP} starts its sessions again")

    await asyncio.to_thread(be_limited_and_resume)
    assert await has_event(harness, EventType.APP_RESUMED, api_app=APP)

    def revoke() -> None:
        operator.open(path)
        confirm(operator, "Revoke", "Revoke the tokens", f"The tokens of @{account} in {APP} are revoked")

    await asyncio.to_thread(revoke)
    assert await harness.credential(account) is None
    assert await harness.owner(after) is None


async def link_and_release(harness: ServiceHarness, operator: Operator, account: str) -> None:
    """The quarantine is written, as after a browser that could not be stopped, which would take a minute."""
    profile_id = await harness.profile_id(account)
    path = f"/ui/profiles/{profile_id}"

    async def owner() -> tuple[str, str | None, bool]:
        found = await call(harness, "GET", f"/profiles/{profile_id}")
        return found["twitter_username"], found["api_app"], found["is_linked"]

    by_rule = await owner()

    def link() -> None:
        operator.open(path)
        field = operator.driver.find_element(By.NAME, "twitter_username")
        field.clear()
        field.send_keys(f"{account}_b")
        Select(operator.driver.find_element(By.NAME, "api_app")).select_by_visible_text(APP)
        operator.act("Link", f"The profile is linked to @{account}_b.")

    await asyncio.to_thread(link)
    assert (by_rule, await owner()) == ((account, None, False), (f"{account}_b", APP, True))
    await asyncio.to_thread(confirm, operator, "Unlink", "Unlink the profile", "The profile is unlinked.")
    assert await owner() == by_rule

    async with harness.writing() as db:
        quarantined = update(Profile).where(Profile.profile_id == profile_id)
        await db.execute(quarantined.values(quarantined_at=utc_now(), quarantine_reason="It runs on"))

    def release() -> None:
        operator.open(path)
        confirm(operator, "Release", "No browser runs: release it", "The profile is released.")

    await asyncio.to_thread(release)
    found = await call(harness, "GET", f"/profiles/{profile_id}")
    assert (found["quarantined_at"], found["quarantine_reason"]) == (None, None)


async def open_and_close_the_breaker(harness: ServiceHarness, operator: Operator) -> None:
    """GoLogin limits the list that a sync reads, once."""

    async def end_of_sync() -> str | None:
        newest = (await harness.call("GET", "/profiles/sync")).json()["data"][0]
        return (
            str(newest["status"]) if newest["completed_at"] and newest["requested_by"] == OPERATOR else None
        )

    asked = "The sync is requested"
    await harness.admin.set_fault("gologin.list", "rate_limited", times=1)
    await asyncio.to_thread(press, operator, "/ui/profiles", "Sync now", asked)
    assert await eventually(end_of_sync) == "failed"

    def close() -> None:
        operator.open("/ui/health")
        label = "The token works: close the breaker"
        confirm(operator, "Close the breaker", label, "The breaker is closed")

    await asyncio.to_thread(close)
    assert await has_event(harness, EventType.GOLOGIN_BREAKER_CLOSED)
    await asyncio.to_thread(press, operator, "/ui/profiles", "Sync now", asked)

    async def is_synced() -> bool:
        return await end_of_sync() == "completed"

    await eventually(is_synced)


async def create_rotate_and_revoke_a_key(harness: ServiceHarness, operator: Operator) -> None:
    async def is_accepted(key: str) -> bool:
        answer = await harness.call("GET", "/authorize", headers={"X-API-Key": key})
        assert answer.status_code in (200, 401)
        return answer.is_success

    def create() -> str:
        operator.open("/ui/keys/new")
        operator.driver.find_element(By.NAME, "scope sessions:read").click()
        operator.driver.find_element(By.NAME, "name").send_keys("a reader", Keys.ENTER)
        operator.sees("h1", "The key a reader is created")
        return operator.focused()

    def rotate() -> str:
        operator.driver.find_element(By.LINK_TEXT, "To the key").click()
        operator.sees("h1", "a reader")
        operator.driver.find_element(By.LINK_TEXT, "Rotate").click()
        operator.sees("h1", "Rotate the key a reader?")
        Select(operator.driver.find_element(By.NAME, "overlap")).select_by_visible_text("not at all")
        operator.button("Rotate").click()
        operator.sees("h1", "The key a reader is rotated")
        return operator.focused()

    def revoke() -> None:
        operator.driver.find_element(By.LINK_TEXT, "To the key").click()
        operator.sees("h1", "a reader")
        confirm(operator, "Revoke", "Revoke the key", "The key a reader is revoked.")

    old = await asyncio.to_thread(create)
    assert await is_accepted(old)
    new = await asyncio.to_thread(rotate)
    assert (await is_accepted(old), await is_accepted(new)) == (False, True)
    await asyncio.to_thread(revoke)
    assert not await is_accepted(new)


def change_theme(operator: Operator) -> None:
    operator.open("/ui/apps")
    operator.driver.find_element(By.NAME, "theme").click()
    operator.sees("html[data-theme=light] h1", "OAuth apps")
    assert operator.path == "/ui/apps"
