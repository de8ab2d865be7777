"""Every route and every command with secrets under way; whatever comes back goes into the leak log."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from app.services.keys.service import Scope
from tests.e2e.canary import NOTHING, Canaries, LeakLog, api_key
from tests.e2e.children import CommandResult, Commands
from tests.e2e.harness import WAIT, ServiceHarness
from tests.fixtures.routes import ROUTES, Access, filled, listed

OPENAPI: Final = Path(__file__).resolve().parents[2] / "openapi.json"
NOT_DESCRIBED: Final = (
    "/docs",
    "/redoc",
    "/openapi.json",
    "/docs/oauth2-redirect",
    "/metrics",
    "/dashboard",
    "/",
)

_URL: Final = frozenset({"webhook URL"})
ONCE: Final = {
    "getToken": frozenset({"access token", "token secret"}),
    "createKey": frozenset({"API key"}),
    "rotateKey": frozenset({"API key"}),
    "createWebhook": frozenset({"webhook secret"}) | _URL,
    "rotateWebhook": frozenset({"webhook secret"}),
    **dict.fromkeys(("listWebhooks", "getWebhook", "updateWebhook", "pauseWebhook", "resumeWebhook"), _URL),
    "resumeApp": frozenset({"wrong API key"}),  # as the name of an app that the caller has made up
}
"""What a route is there to show, if it succeeds."""
COMMANDS: Final = {
    "keys create": frozenset({"API key"}),
    "keys rotate": frozenset({"API key"}),
    "webhooks create": frozenset({"webhook secret"}),
    "webhooks rotate": frozenset({"webhook secret"}),
    "webhooks list": _URL,
    "webhooks show": _URL,
    "ui-link --address": frozenset({"sign-in ticket"}),
}
_PUBLIC: Final = ("health", "ready")
_REFUSED: Final = (401, 403, 404, 405, 422)


class RouteSweep:
    """Calls and commands, each with its entry in the leak_log."""

    def __init__(self, harness: ServiceHarness, run: Commands, leak_log: LeakLog) -> None:
        self.harness = harness
        self.run = run
        self.leak_log = leak_log
        self.values: dict[str, str] = {}
        """What the paths and bodies of routes name, by the names that `test_access` has for them."""
        self._http = httpx.AsyncClient(base_url=harness.service.url, trust_env=False, timeout=WAIT + 10)

    @property
    def canaries(self) -> Canaries:
        return self.leak_log.canaries

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, name: str, method: str, path: str, **request: Any) -> httpx.Response:
        """With the bootstrap key unless there is another."""
        headers = {"X-API-Key": self.harness.key, **request.pop("headers", {})}
        async with self._http.stream(method, path, headers=headers, **request) as answer:
            is_endless = "event-stream" in answer.headers.get("content-type", "")
            content = b"" if is_endless else await answer.aread()
        place = f"{name} ({answer.status_code})"
        allowed = ONCE.get(name, NOTHING) if answer.is_success else NOTHING
        self.leak_log.write(place, content, allowed=allowed)
        self.leak_log.write(
            f"headers of {place}", b"\n".join(b"%s: %s" % pair for pair in answer.headers.raw)
        )
        return answer

    async def data(self, name: str, method: str, path: str, **request: Any) -> Any:
        answer = await self.call(name, method, path, **request)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    async def command(self, *arguments: str, code: int | None = 0, **changes: str) -> str:
        """Its standard output."""
        return (await self.ended(*arguments, code=code, **changes)).output

    async def ended(self, *arguments: str, code: int | None = 0, **changes: str) -> CommandResult:
        """`changes`: of the settings."""
        ended = await self.run(*arguments, environment=self.harness.environment | changes)
        assert code in (None, ended.code), (arguments, ended.text)
        name = " ".join(arguments[:2])
        self.leak_log.write(f"output of {name}", ended.output, allowed=COMMANDS.get(name, NOTHING))
        self.leak_log.write(f"standard error of {name}", ended.problems)
        return ended

    async def new_key(self, name: str, **more: Any) -> tuple[str, str]:
        """Its id and itself."""
        made = await self.data(
            "createKey", "POST", "/keys", json={"name": name, "scopes": ["events"], **more}
        )
        self.canaries.plant("API key", made["key"])
        return made["key_id"], made["key"]

    async def every_route(self) -> None:
        """Call every route, first those that read, last those that end something; each must come past its checks."""
        for name, method, path, operation in sorted(_operations(), key=_harmless_first):
            access = _access(name)
            where, body = path.format(**self.values), filled(access.body, self.values)
            answer = await self.call(name, method, where, params=access.query, json=body)
            assert answer.status_code not in _REFUSED, (name, answer.text)
            self._learn(name, answer)
            await self._nonsense(name, method, path, operation, body)
            stranger = {"X-API-Key": self._wrong_key()}
            refused = await self.call(name, method, where, params=access.query, json=body, headers=stranger)
            assert refused.status_code == (200 if name in _PUBLIC else 401)
        for path in NOT_DESCRIBED:
            await self.call(path, "GET", path)

    async def _nonsense(self, name: str, method: str, path: str, operation: Any, body: Any) -> None:
        """A key of ours wherever a caller may put one that does not belong there."""
        key = self._wrong_key()
        spoilt = {each["name"]: key for each in operation.get("parameters", ()) if each["in"] != "path"}
        place = path
        for each in operation.get("parameters", ()):
            place = place.replace(f"{{{each['name']}}}", key)
        headers = {"Authorization": f"Basic {key}", "Cookie": f"session={key}"}
        for content in ({"params": spoilt}, {"json": _spoilt(body, key)}, {"content": f'{{"{key}'}):
            await self.call(name, method, place, headers=headers, **content)
        await self.call(name, method, place, headers=headers | {n: v for n, v in spoilt.items() if "-" in n})
        await self.call(name, method, place, headers={"Authorization": f"Bearer {key}"})

    def _wrong_key(self) -> str:
        key = api_key()
        self.canaries.plant("wrong API key", key)
        return key

    def _learn(self, name: str, answer: httpx.Response) -> None:
        """The secrets that the route has just made."""
        kinds = {"key": "API key"} if name in ("createKey", "rotateKey") else {"secret": "webhook secret"}
        if ONCE.get(name, NOTHING) & {"API key", "webhook secret"} and answer.is_success:
            data = answer.json()["data"]
            for field, kind in kinds.items():
                self.canaries.plant(kind, data[field])


def _operations() -> Iterator[tuple[str, str, str, Any]]:
    for path, methods in json.loads(OPENAPI.read_text())["paths"].items():
        for method, operation in methods.items():
            yield operation["operationId"], method.upper(), path, operation


def _access(name: str) -> Access:
    """A route that `test_access` does not know is a KeyError."""
    return listed(Scope.EVENTS) if name in _PUBLIC else ROUTES[name]


def _harmless_first(operation: tuple[str, str, str, Any]) -> tuple[int, str]:
    name, method, *_ = operation
    return ("GET", "POST", "PUT", "PATCH", "DELETE").index(method), name


def _spoilt(body: Any, key: str) -> Any:
    """With the key as the value of each field that is no list, and as the name of one."""
    fields = body if isinstance(body, dict) else {"name": ""}
    return {name: key for name, value in fields.items() if not isinstance(value, list)} | {
        secrets.choice((key, "api_key")): key
    }
