"""One authorization without the service, from the profile's start to its stop: by a script, and over raw CDP.

Both use the profile browser's local API and end with the who-am-I of the new token, as the service does.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import secrets
import shutil
from collections.abc import Callable
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait
from websockets.asyncio.client import ClientConnection, connect

from sandbox.config import SandboxInfo

APP = "AIOTT1"
BUTTON = '[data-testid="OAuth_Consent_Button"]'
FIND_BUTTON = f"""new Promise((resolve) => {{
  const look = () => {{
    const button = document.querySelector('{BUTTON}');
    if (!button || button.disabled) return false;
    const box = button.getBoundingClientRect();
    resolve({{x: box.x + box.width / 2, y: box.y + box.height / 2}});
    return true;
  }};
  if (look()) return;
  const observer = new MutationObserver(() => look() && observer.disconnect());
  observer.observe(document, {{childList: true, subtree: true, attributes: true}});
}})"""


class Consent:
    """The authorize URL of one flow, and what follows from its code."""

    def __init__(self, info: SandboxInfo) -> None:
        self._info, self._app = info, info.apps[APP]
        self._verifier = secrets.token_urlsafe(64)
        challenge = hashlib.sha256(self._verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._app.client_id,
            "redirect_uri": self._app.redirect_uri,
            "scope": " ".join(self._app.scopes),
            "state": secrets.token_urlsafe(32),
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        self.redirect_uri = self._app.redirect_uri
        self.url = f"{info.provider_url}/i/oauth2/authorize?{urlencode(query)}"

    def exchange(self, callback: str) -> httpx.Request:
        form = {
            "grant_type": "authorization_code",
            "code": parse_qs(urlsplit(callback).query)["code"][0],
            "redirect_uri": self.redirect_uri,
            "code_verifier": self._verifier,
        }
        basic = base64.b64encode(f"{self._app.client_id}:{self._app.client_secret}".encode()).decode()
        url = f"{self._info.provider_url}/2/oauth2/token"
        return httpx.Request("POST", url, data=form, headers={"Authorization": f"Basic {basic}"})

    def who_am_i(self, answer: httpx.Response) -> httpx.Request:
        headers = {"Authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}
        return httpx.Request("GET", f"{self._info.provider_url}/2/users/me", headers=headers)


def local_call(info: SandboxInfo, action: str, profile_id: str) -> httpx.Request:
    """`action`: start or stop."""
    body = {"profileId": profile_id, "sync": True}
    return httpx.Request("POST", f"{info.gologin_local_url}/browser/{action}-profile", json=body)


def run_script(info: SandboxInfo, profile_id: str) -> float:
    """Blocking, with a chromedriver process of its own; the seconds until the tokens are there."""
    began, consent = perf_counter(), Consent(info)
    with httpx.Client(timeout=60, trust_env=False, verify=False) as http:
        ws_url = http.send(local_call(info, "start", profile_id)).raise_for_status().json()["wsUrl"]
        try:
            callback = _press_with_selenium(urlsplit(ws_url).netloc, consent)
            http.send(consent.who_am_i(http.send(consent.exchange(callback)))).raise_for_status()
            return perf_counter() - began
        finally:
            http.send(local_call(info, "stop", profile_id)).raise_for_status()


def _press_with_selenium(address: str, consent: Consent) -> str:
    options = webdriver.ChromeOptions()
    options.debugger_address = address
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(consent.url)
        is_ready = expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, BUTTON))
        WebDriverWait(driver, 30).until(is_ready).click()
        WebDriverWait(driver, 30).until(lambda d: d.current_url.startswith(consent.redirect_uri))
        return driver.current_url
    finally:
        driver.quit()


async def run_raw(http: httpx.AsyncClient, info: SandboxInfo, profile_id: str) -> float:
    """One websocket to the browser and its first tab, no driver; the seconds until the tokens are there."""
    began, consent = perf_counter(), Consent(info)
    answer = await http.send(local_call(info, "start", profile_id))
    try:
        ws_url = answer.raise_for_status().json()["wsUrl"]
        async with connect(ws_url, proxy=None, compression=None, close_timeout=0.1) as socket:
            callback = await _Cdp(socket).press(consent)
            token = await http.send(consent.exchange(callback))
            (await http.send(consent.who_am_i(token))).raise_for_status()
            return perf_counter() - began
    finally:
        (await http.send(local_call(info, "stop", profile_id))).raise_for_status()


class _Cdp:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self._session: dict[str, str] = {}

    async def press(self, consent: Consent) -> str:
        targets = (await self._ask("Target.getTargets"))["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = await self._ask("Target.attachToTarget", targetId=page, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        await self._send("Fetch.enable", patterns=[{"urlPattern": f"{consent.redirect_uri}*"}])
        await self._ask("Page.enable")
        await self._send("Page.navigate", url=consent.url)
        await self._next(lambda message: message.get("method") == "Page.domContentEventFired")
        found = await self._ask(
            "Runtime.evaluate", expression=FIND_BUTTON, awaitPromise=True, returnByValue=True
        )
        place = {**found["result"]["value"], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            await self._send("Input.dispatchMouseEvent", type=kind, **place)
        paused = await self._next(lambda message: message.get("method") == "Fetch.requestPaused")
        url: str = paused["params"]["request"]["url"]
        return url

    async def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = await self._send(method, **params)
        result: dict[str, Any] = (await self._next(lambda message: message.get("id") == number))["result"]
        return result

    async def _send(self, method: str, **params: Any) -> int:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **self._session}
        await self._socket.send(json.dumps(message))
        return number

    async def _next(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while True:
                message: dict[str, Any] = json.loads(await self._socket.recv())
                if is_it(message):
                    return message
