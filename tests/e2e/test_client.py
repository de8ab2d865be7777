"""The client where it is used: the examples of its page, and the commands that work at a service (`--url`)."""

import asyncio
import base64
import csv
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from app.models import Event, utc_now
from app.services.webhooks.message import build_message
from scripts.generated import ROOT
from tests.e2e.children import commands
from tests.e2e.harness import APP, ServiceHarness

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

NAMES = ("my_account", "shop_1", "shop_2")


def examples(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


async def test_the_examples_of_the_page_work(
    harness: ServiceHarness,
    unused_accounts: Iterator[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
    variables = {"SERVICE_URL": harness.service.url, "SERVICE_KEY": harness.key, "WEBHOOK_SECRET": secret}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    page = (
        (ROOT / "docs" / "client.md")
        .read_text()
        .replace("https://api.x.com", harness.sandbox.info.provider_url)
    )
    accounts = [next(unused_accounts) for _ in NAMES]
    for name, account in zip(NAMES, accounts, strict=True):
        page = re.sub(rf"\b{name}\b", account, page)
    place: dict[str, Any] = {"__name__": "example"}
    for number, example in enumerate(examples(page)):
        await asyncio.to_thread(exec, compile(example, f"example {number}", "exec"), place)
    assert (place["session"].status, place["batch"].accepted, place["batch"].rejected) == ("completed", 2, 1)
    assert (place["done"].status, place["done"].counts["completed"]) == ("completed", 2)
    assert (place["answer"].status_code, place["answer"].json()["data"]["username"]) == (200, accounts[0])
    assert place["event"].account_id
    assert "PROFILE_NOT_FOUND" in capsys.readouterr().out
    await _deliver(place["hooks"], place["seen"], secret)


async def _deliver(hooks: Any, seen: set[str], secret: str) -> None:
    event = Event(id=7, event_type="batch.completed", occurred_at=utc_now(), actor="tests", data={})
    message, now = build_message("w1", event), utc_now()
    headers = {
        "webhook-id": message.message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message.message_id, now, message.body),
    }
    async with httpx.AsyncClient(transport=httpx.ASGITransport(hooks), base_url="http://hooks") as http:
        for body, status in ((message.body, 204), (message.body, 204), (message.body + " ", 401)):
            assert (await http.post("/gologin", content=body, headers=headers)).status_code == status
    assert seen == {message.message_id}


@pytest.mark.begin_early
async def test_commands_work_at_a_service(
    harness: ServiceHarness, unused_accounts: Iterator[str], tmp_path: Path
):
    """With neither settings nor a database of their own."""
    accounts = sorted(next(unused_accounts) for _ in range(2))
    there = {"SERVICE_URL": harness.service.url, "SERVICE_KEY": harness.key}
    file = tmp_path / "accounts.csv"
    file.write_text("account_id,priority\n" + "".join(f"@{account},5\n" for account in accounts))
    async with commands(tmp_path / "run") as run:
        first = await run("authorize", str(file), "--api-app", APP, "--max-running", "2", environment=there)
        assert (first.code, first.output.split()[-4:]) == (
            0, ["2", "completed", "Results:", str(file.with_suffix(".results.csv"))]
        ), first.text  # fmt: skip
        with file.with_suffix(".results.csv").open(newline="") as results:
            rows = list(csv.DictReader(results))
        assert [(row["row"], row["account_id"], row["status"]) for row in rows] == [
            ("1", accounts[0], "completed"), ("2", accounts[1], "completed")
        ]  # fmt: skip
        again = await run("authorize", str(file), "--api-app", APP, "--max-running", "2", environment=there)
        assert "made it earlier" in again.problems
        batch_id = again.problems.split()[1].rstrip(":")
        assert batch_id in first.output

        ended = await run("batches", "cancel", batch_id, environment=there)
        assert (ended.code, ended.output) == (1, "")
        assert "BATCH_ENDED" in ended.problems
        token = await run("token", f"@{accounts[0]}", "--api-app", APP, environment=there)
        assert await harness.owner(token.output.strip()) == accounts[0]

        shown = ("events", "--account", f"@{accounts[1]}", "--event-type", "authorization.*")
        listed = [json.loads(line) for line in (await run(*shown, environment=there)).output.splitlines()]
        assert {"authorization.requested", "authorization.completed"} <= {
            each["event_type"] for each in listed
        }
        told = await run(
            *shown, "--follow", "--last-event-id", "0-0", "--limit", str(len(listed)), environment=there
        )
        assert [json.loads(line)["id"] for line in told.output.splitlines()] == [
            each["id"] for each in reversed(listed)
        ]

        made = await run("keys", "create", "reader", "--scope", "tokens:read", environment=there)
        reader = {**there, "SERVICE_KEY": made.output.strip()}
        assert (await run("token", accounts[0], "--api-app", APP, environment=reader)).output == token.output
        refused = await run(
            "webhooks", "create", "https://192.0.2.1/", "--account", "team_*", environment=there
        )
        assert "WEBHOOK_URL_REFUSED" in refused.problems

        for arguments, environment, said in (
            (("token", "x", "--api-app", APP), {**there, "SERVICE_KEY": "not-the-key"}, "UNAUTHORIZED"),
            (("token", "x", "--api-app", APP, "--url", harness.service.url), {}, "SERVICE_KEY"),
            (("authorize", str(file), "--work"), there, "--work"),
            (("token", "no handle", "--api-app", APP), there, "must be an account's handle"),
            (("webhooks", "list"), reader, "FORBIDDEN"),
        ):
            refused = await run(*arguments, environment=environment)
            assert refused.code in (1, 2)
            assert said in " ".join(refused.problems.replace("│", " ").split())
            assert "not-the-key" not in refused.text
