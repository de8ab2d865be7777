"""Seconds from POST to stored tokens, and authorizations a minute at ten at once, against the naive way.

    .venv/bin/python -m benchmarks.authorize [runs] [accounts]

The baseline does the same work against the same sandbox in the same run, as a script would: a chromedriver process
of its own for each account, Selenium's waits polling every 0.5 s, no service. Rounds alternate; medians and ratios.
"""

import asyncio
import base64
import hashlib
import secrets
import shutil
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait

from sandbox.config import SandboxInfo
from sandbox.demo.service_process import ServiceProcess, settings_for
from sandbox.process import SandboxProcess

APP = "AIOTT1"
AT_ONCE = 10

Authorize = Callable[[str], Awaitable[None]]


def naive(info: SandboxInfo, profile_id: str) -> None:
    """Start the profile, consent, exchange, stop: blocking, all its own."""
    app, verifier = info.apps[APP], secrets.token_urlsafe(64)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = urlencode(
        {
            "response_type": "code",
            "client_id": app.client_id,
            "redirect_uri": app.redirect_uri,
            "scope": " ".join(app.scopes),
            "state": "s",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
    )
    with httpx.Client(timeout=60, trust_env=False) as http:
        body = {"profileId": profile_id, "sync": True}
        ws_url = http.post(f"{info.gologin_local_url}/browser/start-profile", json=body).json()["wsUrl"]
        code = consent(
            urlsplit(ws_url).netloc, f"{info.provider_url}/i/oauth2/authorize?{query}", app.redirect_uri
        )
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": app.redirect_uri,
            "code_verifier": verifier,
        }
        token = http.post(
            f"{info.provider_url}/2/oauth2/token", data=form, auth=(app.client_id, app.client_secret or "")
        ).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        http.get(f"{info.provider_url}/2/users/me", headers=headers).raise_for_status()
        http.post(f"{info.gologin_local_url}/browser/stop-profile", json=body).raise_for_status()


def consent(address: str, url: str, redirect_uri: str) -> str:
    options = webdriver.ChromeOptions()
    options.debugger_address = address
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(url)
        button = (By.CSS_SELECTOR, '[data-testid="OAuth_Consent_Button"]')
        WebDriverWait(driver, 30).until(expected_conditions.element_to_be_clickable(button)).click()
        WebDriverWait(driver, 30).until(lambda d: d.current_url.startswith(redirect_uri))
        return parse_qs(urlsplit(driver.current_url).query)["code"][0]
    finally:
        driver.quit()


async def one_at_a_time(authorize: Authorize, accounts: list[str]) -> list[float]:
    seconds = []
    for account in accounts:
        began = perf_counter()
        await authorize(account)
        seconds.append(perf_counter() - began)
    return seconds


async def a_minute(authorize: Authorize, accounts: list[str]) -> float:
    """Authorizations a minute with ten at once."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def gated(account: str) -> None:
        async with gate:
            await authorize(account)

    began = perf_counter()
    await asyncio.gather(*map(gated, accounts))
    return len(accounts) / (perf_counter() - began) * 60


async def main(runs: int, accounts: int) -> None:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        async with SandboxProcess(accounts=accounts) as sandbox:
            settings = settings_for(sandbox.info, folder=Path(name), rate_limit_per_minute=1_000_000)
            async with ServiceProcess(Path(name), settings) as service:
                await compare(sandbox, service, settings["API_KEY"], runs)


async def compare(sandbox: SandboxProcess, service: ServiceProcess, key: str, runs: int) -> None:
    info, headers = sandbox.info, {"X-API-Key": key, "Prefer": "wait=60"}
    profiles = {account: (await sandbox.admin.profile(account)).id for account in info.accounts}
    threads = ThreadPoolExecutor(AT_ONCE)
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=90, trust_env=False) as http:

        async def by_service(account: str) -> None:
            answer = (await http.post("/authorize", json={"account_id": account, "api_app": APP})).json()
            if not answer["success"] or answer["data"]["status"] != "completed":
                raise RuntimeError(f"{account}: {answer}")

        async def by_script(account: str) -> None:
            await asyncio.get_running_loop().run_in_executor(threads, naive, info, profiles[account])

        await synced(http)
        few = info.accounts[:5]
        await one_at_a_time(by_service, few)  # the first start of a profile is slower
        await one_at_a_time(by_script, few)
        alone: dict[str, list[float]] = {"service": [], "naive script": []}
        rate: dict[str, list[float]] = {"service": [], "naive script": []}
        for _ in range(runs):
            for who, authorize in (("service", by_service), ("naive script", by_script)):
                alone[who] += await one_at_a_time(authorize, few)
                rate[who].append(await a_minute(authorize, info.accounts))
    report("seconds from POST to stored tokens, alone", alone)
    report("authorizations a minute, ten at once", rate)


async def synced(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while not any(
            worker["name"] == "sync" and worker["last_success"]
            for worker in (await http.get("/health/ready")).json()["data"]["workers"]
        ):
            await asyncio.sleep(0.1)


def report(title: str, measured: dict[str, list[float]]) -> None:
    medians = {who: statistics.median(values) for who, values in measured.items()}
    print(f"{title}: " + ", ".join(f"{who} {median:.2f}" for who, median in medians.items()))
    print(f"  median of {len(measured['service'])}; ratio {medians['service'] / medians['naive script']:.2f}")


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*(arguments + [4, 30][len(arguments) :])))
