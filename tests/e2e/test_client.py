"""The client where it is used: the examples of its page."""

import asyncio
import base64
import re
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from app.models import Event, utc_now
from app.services.webhook_message import message_of
from tests.e2e.children import ROOT
from tests.e2e.house import House

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

NAMES = ("my_account", "shop_1", "shop_2")


def examples(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


async def test_the_examples_of_the_page_work(
    house: House,
    unused_accounts: Iterator[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}"
    variables = {"SERVICE_URL": house.service.url, "SERVICE_KEY": house.key, "WEBHOOK_SECRET": secret}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    page = (
        (ROOT / "docs" / "client.md")
        .read_text()
        .replace("https://api.x.com", house.sandbox.info.provider_url)
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
    assert place["told"].account_id
    assert "PROFILE_NOT_FOUND" in capsys.readouterr().out
    await _deliver(place["hooks"], place["seen"], secret)


async def _deliver(hooks: Any, seen: set[str], secret: str) -> None:
    event = Event(id=7, event_type="test.happened", occurred_at=utc_now(), actor="tests", data={})
    message, now = message_of("w1", event), utc_now()
    headers = {
        "webhook-id": message.webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message.webhook_id, now, message.body),
    }
    async with httpx.AsyncClient(transport=httpx.ASGITransport(hooks), base_url="http://hooks") as http:
        for body, status in ((message.body, 204), (message.body, 204), (message.body + " ", 401)):
            assert (await http.post("/gologin", content=body, headers=headers)).status_code == status
    assert seen == {message.webhook_id}
