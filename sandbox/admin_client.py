"""`SandboxAdmin`: the sandbox's admin API as typed methods, for the demo and the tests."""

import re
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import httpx

from sandbox.admin import BrowserInfo, GrantTokens, ProfileInfo
from sandbox.config import SandboxInfo
from sandbox.faults import Endpoint, Fault
from sandbox.oauth import GrantState, IssuedSecrets
from sandbox.state import SandboxSettings
from sandbox.traffic import RequestRecord, Stats

TIMEOUT = 15.0  # seconds; the admin server never hangs on purpose
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""TLS of clients whose addresses are all `http`: to read the certificates of the web would take 20 ms for each."""


class SandboxAdmin:
    """A client of one running sandbox.

    Every method raises `httpx.HTTPError` when the sandbox refuses or is gone.
    """

    def __init__(self, info: SandboxInfo) -> None:
        self._info = info
        self._http = httpx.AsyncClient(
            base_url=info.admin_url, timeout=TIMEOUT, trust_env=False, verify=NO_TLS
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def info(self) -> SandboxInfo:
        return SandboxInfo.model_validate(await self._call("GET", "/info"))

    async def issued(self) -> IssuedSecrets:
        """Every code, token, verifier and state that the provider has made or seen."""
        return IssuedSecrets.model_validate(await self._call("GET", "/issued"))

    async def grants(self, account: str | None = None) -> list[GrantState]:
        """The account's grants, or all, oldest first."""
        params = {"account": account} if account else None
        return [GrantState.model_validate(item) for item in await self._call("GET", "/grants", params=params)]

    async def give_grants(self, app: str, accounts: Sequence[str]) -> list[GrantTokens]:
        """First tokens of an app for many accounts, without a consent page."""
        spec = {"app": app, "accounts": list(accounts)}
        return [GrantTokens.model_validate(item) for item in await self._call("POST", "/grants", json=spec)]

    async def set_fault(self, endpoint: Endpoint | str, kind: str, **details: Any) -> Fault:
        """`details` are the other fields of `FaultSpec`: account, times, seconds, status, body, headers, scope."""
        spec = {"endpoint": endpoint, "kind": kind, **details}
        return Fault.model_validate(await self._call("POST", "/faults", json=spec))

    async def faults(self) -> list[Fault]:
        return [Fault.model_validate(item) for item in await self._call("GET", "/faults")]

    async def clear_faults(self, account: str | None = None) -> None:
        """Removes the account's faults, or all."""
        await self._call("DELETE", "/faults", params={"account": account} if account else None)

    async def browsers(self) -> list[BrowserInfo]:
        """The browsers whose processes are alive."""
        return [BrowserInfo.model_validate(item) for item in await self._call("GET", "/browsers")]

    async def kill_browser(self, profile_id: str) -> None:
        await self._call("POST", f"/browsers/{profile_id}/kill")

    async def stats(self) -> Stats:
        return Stats.model_validate(await self._call("GET", "/stats"))

    async def clear_stats(self) -> None:
        await self._call("DELETE", "/stats")

    async def requests(
        self, *, limit: int = 100, endpoint: Endpoint | str | None = None, account: str | None = None
    ) -> list[RequestRecord]:
        """The newest matching requests, oldest first."""
        filters = {"endpoint": endpoint, "account": account}
        params = {"limit": str(limit)} | {name: value for name, value in filters.items() if value}
        return [
            RequestRecord.model_validate(item) for item in await self._call("GET", "/requests", params=params)
        ]

    async def change_settings(self, **changes: Any) -> SandboxSettings:
        """Changes fields of `SandboxSettings` and returns all of them."""
        return SandboxSettings.model_validate(await self._call("PUT", "/settings", json=changes))

    async def profile(self, account: str) -> ProfileInfo:
        return ProfileInfo.model_validate(await self._call("GET", f"/profiles/{account}"))

    async def add_profile(self, account: str, name: str | None = None) -> ProfileInfo:
        return ProfileInfo.model_validate(
            await self._call("POST", "/profiles", json={"account": account, "name": name})
        )

    async def rename_profile(self, account: str, name: str) -> ProfileInfo:
        return ProfileInfo.model_validate(
            await self._call("PATCH", f"/profiles/{account}", json={"name": name})
        )

    async def replace_profile(self, account: str) -> ProfileInfo:
        """The account's profile gets another id."""
        return ProfileInfo.model_validate(await self._call("POST", f"/profiles/{account}/replace"))

    async def remove_profile(self, account: str) -> None:
        await self._call("DELETE", f"/profiles/{account}")

    async def reset_profiles(self, accounts: int) -> None:
        """Replaces all profiles with `sandbox_001` to `sandbox_N`."""
        await self._call("PUT", "/profiles", json={"accounts": accounts})

    async def sign_in(self, account: str) -> dict[str, str]:
        """The cookies of somebody signed in at the provider as this account."""
        cookies: dict[str, str] = await self._call("POST", f"/accounts/{account}/cookies")
        return cookies

    async def revoke_grants(self, account: str) -> int:
        """Ends all grants of the account, as its owner could; returns how many there were."""
        return int((await self._call("POST", f"/accounts/{account}/revoke"))["revoked"])

    async def give_consent(self, authorize_url: str, account: str, *, decision: str = "authorize") -> str:
        """Does what the consent page's script does, and returns the redirect's URL (with `code`, `state`).

        Raises `httpx.HTTPStatusError` when the provider refuses, `ValueError` when no consent page is shown.
        """
        cookies = await self.sign_in(account)
        async with httpx.AsyncClient(
            cookies=cookies, timeout=TIMEOUT, trust_env=False, verify=NO_TLS
        ) as browser:
            page = await browser.get(authorize_url)
            match = re.search(r'data-ticket="([^"]+)" data-api="([^"]+)"', page.text)
            if match is None:
                raise ValueError(f"no consent page for {account}: HTTP {page.status_code}")
            answer = {"ticket": match[1], "decision": decision}
            reply = await browser.post(urljoin(authorize_url, match[2]), json=answer)
            return str(reply.raise_for_status().json()["location"])

    async def _call(self, method: str, path: str, **arguments: Any) -> Any:
        response = await self._http.request(method, path, **arguments)
        if response.is_error:
            problem = f"sandbox admin: {method} {path}: {response.status_code}: {response.text}"
            raise httpx.HTTPStatusError(problem, request=response.request, response=response)
        return response.json() if response.content else None
