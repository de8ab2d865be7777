"""The operators' page in a real browser: a batch is uploaded and followed to its end, a webhook does all it can."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from app.models import EventType
from sandbox.process import SandboxProcess
from tests.e2e.harness import APP, ServiceHarness, open_harness
from tests.e2e.test_dashboard import Operator
from tests.fixtures.chrome import complaints
from tests.fixtures.receiver import Receiver, running_receiver
from tests.fixtures.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("dashboard")]

VIEWS = {
    "/ui/batches": "Batches",
    "/ui/events": "Events",
    "/ui/webhooks": "Webhooks",
    "/ui/keys": "API keys",
    "/ui/keys/new": "Create an API key",
    "/ui/apps": "OAuth apps",
    "/ui/encryption-keys": "Encryption keys",
    "/ui/health": "Health",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def harness(sandbox: SandboxProcess, folder: Path) -> AsyncIterator[ServiceHarness]:
    """A service whose webhooks may lead to this machine."""
    async with open_harness(sandbox, folder, webhook_allow_private_addresses=True) as harness:
        yield harness


async def test_operator_uploads_a_batch_and_replays_a_webhook(
    harness: ServiceHarness, driver: webdriver.Chrome, unused_accounts: Iterator[str], tmp_path: Path
):
    operator = Operator(driver, harness.service.url)
    file = tmp_path / "accounts.csv"
    rows = [f"{next(unused_accounts)},{APP}" for _ in range(2)]
    file.write_text("\n".join(["account_id,api_app", *rows, f"nobody,{APP}"]) + "\n")
    async with running_receiver() as receiver:
        await asyncio.to_thread(operator.sign_in, harness.key)
        await asyncio.to_thread(create_webhook, operator, receiver)
        await asyncio.to_thread(upload, operator, file)

        async def are_delivered(number: int) -> bool:
            return len(receiver.taken) == number

        await eventually(lambda: are_delivered(1))
        await asyncio.to_thread(replay, operator)
        await eventually(lambda: are_delivered(2))
        first, second = receiver.taken
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        await change_webhook(harness, operator, receiver)
    await asyncio.to_thread(open_all, operator)
    assert complaints(driver) == []


def create_webhook(operator: Operator, receiver: Receiver) -> None:
    operator.open("/ui/webhooks/new")
    operator.driver.find_element(By.NAME, "url").send_keys(
        receiver.url(), Keys.TAB, "tests", Keys.TAB, EventType.BATCH_COMPLETED, Keys.ENTER
    )
    operator.sees("h1", "The webhook tests is created")
    receiver.secrets["/"] = operator.focused()
    assert receiver.secrets["/"].startswith("whsec_")


def upload(operator: Operator, file: Path) -> None:
    operator.open("/ui/batches")
    operator.driver.find_element(By.LINK_TEXT, "Upload a CSV").click()
    operator.sees("h1", "Upload a batch")
    operator.driver.find_element(By.NAME, "file").send_keys(str(file))
    operator.driver.find_element(By.XPATH, "//button[text()='Check the rows']").click()
    operator.sees("h1", "accounts.csv")
    operator.sees(".tile", "2\nrows are accepted")
    operator.sees(".tile.bad", "1\nrow is rejected")
    operator.sees("td", "No GoLogin profile found for account: nobody")
    operator.driver.find_element(By.XPATH, "//button[text()='Start the batch']").click()
    operator.sees(".notice", "The batch is started.")
    # It follows by itself, and loads the rows anew at the end.
    operator.sees("#progress .lead", "2 of 2 sessions have ended")
    operator.sees("table .status.completed", "completed")
    assert not operator.driver.find_elements(By.ID, "cancel")


def replay(operator: Operator) -> None:
    operator.open("/ui/webhooks")
    operator.driver.find_element(By.LINK_TEXT, "tests").click()
    operator.sees("table .status.delivered", "delivered")
    operator.driver.find_element(By.CSS_SELECTOR, "table tbody th a").click()
    operator.sees(".attempt", "The receiver answered 200")
    operator.driver.find_element(By.XPATH, "//button[text()='Replay from this event']").click()
    operator.sees(".notice", "are sent again.")


async def change_webhook(harness: ServiceHarness, operator: Operator, receiver: Receiver) -> None:
    """From the webhook's page, to which the replay has led, up to its end."""
    (made,) = (await harness.call("GET", "/webhooks")).json()["data"]

    async def status() -> str:
        return str((await harness.call("GET", f"/webhooks/{made['id']}")).json()["data"]["status"])

    async def are_taken(number: int) -> bool:
        return len(receiver.taken) == number

    await asyncio.to_thread(operator.act, "Send a test", "The test is delivered: the receiver answered 200")
    assert receiver.taken[2].body["type"] == "webhook.test"
    await asyncio.to_thread(operator.act, "Pause", "The webhook is paused.")
    assert await status() == "paused"
    event_id = receiver.taken[1].body["data"]["id"]

    def replay_from_the_form() -> None:
        operator.driver.find_element(By.NAME, "event_id").send_keys(str(event_id))
        operator.act("Replay", f"Events from {event_id} on are sent again once the webhook is resumed.")

    await asyncio.to_thread(replay_from_the_form)
    assert await are_taken(3)
    await asyncio.to_thread(operator.act, "Resume", "Deliveries continue")
    assert await status() == "active"
    await eventually(lambda: are_taken(4))
    assert receiver.taken[3].headers["webhook-id"] == receiver.taken[1].headers["webhook-id"]

    receiver.secrets["/"] = await asyncio.to_thread(rotate_secret, operator)  # what comes is checked with it
    await asyncio.to_thread(operator.act, "Send a test", "The test is delivered: the receiver answered 200")
    assert await are_taken(5)
    await asyncio.to_thread(delete_webhook, operator)
    assert (await harness.call("GET", f"/webhooks/{made['id']}")).status_code == 404


def rotate_secret(operator: Operator) -> str:
    operator.driver.find_element(By.LINK_TEXT, "Rotate the secret").click()
    operator.sees("h1", "Rotate the secret of tests?")
    Select(operator.driver.find_element(By.NAME, "overlap_seconds")).select_by_visible_text("not at all")
    operator.button("Rotate").click()
    operator.sees("h1", "The secret is rotated")
    secret = operator.focused()
    operator.driver.find_element(By.LINK_TEXT, "To the webhook").click()
    operator.sees("h1", "tests")
    return secret


def delete_webhook(operator: Operator) -> None:
    operator.driver.find_element(By.LINK_TEXT, "Delete").click()
    operator.sees("h1", "Delete the webhook tests?")
    operator.act("Delete the webhook", "The webhook is deleted.")


def open_all(operator: Operator) -> None:
    for path, title in VIEWS.items():
        operator.open(path)
        operator.sees("h1", title)
        width = operator.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert width <= 0, f"{path} is wider than the window"
