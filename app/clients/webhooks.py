"""Webhooks going out: one POST to an address that was checked, with one deadline over all of it.

The name is looked up here and the connection made to the address that was checked, so that no second look-up can lead
elsewhere. Redirects are not followed, cookies not kept, bodies not unpacked; every request has its own connection: one
kept open to an address may belong to another name.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import unquote

import httpx

from app.clients import addresses
from app.clients.oauth.rate_limits import seconds_until
from app.clients.texts import error_words, storable
from app.models import utc_now
from app.utils.exceptions import WebhookUrlRefusedException
from app.utils.masking import mask_text
from app.utils.waits import MAX_WAIT

_GONE_STATUS: Final = 410
_ENDPOINT_STATUSES: Final = (408, 410, 425, 429)
"""Statuses of the 4xx that blame the endpoint and not the delivery: it is slow, gone, or wants less."""
_MAX_URL_LENGTH: Final = 2048
_MAX_ANSWER_LENGTH: Final = 2048
"""Characters of an answer."""
_MAX_REPLY_BYTES: Final = _MAX_ANSWER_LENGTH + _MAX_URL_LENGTH
"""More than is kept: a secret that is cut in two would not be known as one."""
_CONNECT_SHARE: Final = 0.3
"""Share of the deadline for one of several addresses of the name."""
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True)
class WebhookAnswer:
    """Result of one attempt."""

    started_at: datetime
    milliseconds: int
    status_code: int | None = None
    error: str | None = None
    """Reason why there is no status."""
    answer: str | None = None
    """The first 2,048 characters of the body, secrets masked."""
    retry_after: float | None = None
    """Seconds, as the endpoint asks."""

    @property
    def succeeded(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300

    @property
    def is_refusal(self) -> bool:
        """The endpoint works, but does not take this one: a 4xx that is about what was sent (RFC 9110, 15.5)."""
        code = self.status_code
        return code is not None and 400 <= code < 500 and code not in _ENDPOINT_STATUSES

    @property
    def is_gone(self) -> bool:
        """The endpoint wants no more (Standard Webhooks: 410)."""
        return self.status_code == _GONE_STATUS


@dataclass
class _Reply:
    """Part of the answer that came before the deadline."""

    status_code: int | None = None
    retry_after: float | None = None
    body: bytearray = field(default_factory=bytearray)


class WebhookClient:
    """Keeps no state.

    Args:
        transport: without kept connections.
        timeout: seconds for everything: look-up, connection, request, answer.
        allow_private: also addresses that are not public, and plain http.
        allow_http: also plain http.
    """

    def __init__(
        self,
        *,
        transport: httpx.AsyncBaseTransport,
        timeout: float,
        allow_private: bool,
        allow_http: bool,
        resolve: addresses.Resolve = addresses.resolve,
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._allow_private = allow_private
        self._schemes = ("https", "http") if allow_http or allow_private else ("https",)
        self.resolve = resolve

    async def check(self, url: str) -> None:
        """Raises `WebhookUrlRefusedException` for one that may not be, or cannot be, spoken to."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._addresses(self._parse(url))
        except TimeoutError:
            raise WebhookUrlRefusedException("has a host that could not be looked up in time") from None

    async def post(self, url: str, *, body: str, headers: Mapping[str, str]) -> WebhookAnswer:
        """One try. Whatever goes wrong outside is part of the answer; nothing is raised."""
        started_at, start = utc_now(), time.monotonic()
        reply, error, secrets = _Reply(), None, _request_secrets(url, headers)
        try:
            async with asyncio.timeout(self._timeout):
                await self._exchange(self._parse(url), body, headers, reply)
        except TimeoutError:
            error = f"No answer within {self._timeout:g} seconds"
        except WebhookUrlRefusedException as refused:
            error = refused.message
        except Exception as failed:  # what an endpoint sends, or its name leads to, may be anything
            error = error_words(mask_text(f"{type(failed).__name__}: {failed}", secrets=secrets))
        return WebhookAnswer(
            started_at=started_at,
            milliseconds=round((time.monotonic() - start) * 1000),
            status_code=reply.status_code,
            error=error if reply.status_code is None else None,  # a body may stop where it likes
            answer=mask_text(storable(reply.body.decode(errors="replace")), secrets=secrets)[
                :_MAX_ANSWER_LENGTH
            ]
            or None,
            retry_after=reply.retry_after,
        )

    def _parse(self, url: str) -> httpx.URL:
        if len(url) > _MAX_URL_LENGTH:
            raise WebhookUrlRefusedException(f"has more than {_MAX_URL_LENGTH} characters")
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):
            raise WebhookUrlRefusedException("is not one") from None
        if parsed.scheme not in self._schemes or not parsed.host:
            raise WebhookUrlRefusedException(
                f"must start with {' or '.join(self._schemes)}:// and name a host"
            )
        if parsed.userinfo or "#" in url:
            raise WebhookUrlRefusedException("must hold no user, password or fragment")
        if parsed.port is not None and not 0 < parsed.port < 1 << 16:
            raise WebhookUrlRefusedException("has a port that cannot be")
        return parsed

    async def _addresses(self, url: httpx.URL) -> list[str]:
        """Return the addresses of the URL's host: all of them public, unless others are allowed."""
        try:
            ips = await self.resolve(url.raw_host.decode(), url.port or _PORTS[url.scheme])
        except (OSError, UnicodeError):
            raise WebhookUrlRefusedException(f"has a host that cannot be found: {url.host}") from None
        if not self._allow_private and not all(map(addresses.is_public, ips)):
            raise WebhookUrlRefusedException(
                f"leads to an address that is not public: {url.host}; WEBHOOK_ALLOW_PRIVATE_ADDRESSES allows it"
            )
        return ips

    async def _exchange(self, url: httpx.URL, body: str, headers: Mapping[str, str], reply: _Reply) -> None:
        ips = await self._addresses(url)
        for address in ips[:-1]:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                await self._send(url, address, body, headers, reply)
                return
        await self._send(url, ips[-1], body, headers, reply)

    async def _send(
        self, url: httpx.URL, address: str, body: str, headers: Mapping[str, str], reply: _Reply
    ) -> None:
        limits = httpx.Timeout(self._timeout, connect=self._timeout * _CONNECT_SHARE)
        request = httpx.Request(
            "POST",
            url.copy_with(host=address),
            headers={**headers, "Host": url.netloc.decode()},
            content=body,
            # The certificate is checked against the name, not the address.
            extensions={"sni_hostname": url.raw_host.decode(), "timeout": limits.as_dict()},
        )
        response = await self._transport.handle_async_request(request)
        try:
            reply.status_code = response.status_code
            retry_after = response.headers.get("retry-after", "")
            reply.retry_after = seconds_until(retry_after, now=time.time(), ceiling=MAX_WAIT)
            async for part in response.aiter_raw():
                reply.body += part[: _MAX_REPLY_BYTES - len(reply.body)]
                if len(reply.body) >= _MAX_REPLY_BYTES:
                    break
        finally:
            await response.aclose()


def new_transport(tls: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    """Return a transport for any number of endpoints: each has its own limit."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits)


def _request_secrets(url: str, headers: Mapping[str, str]) -> set[str]:
    """Return the secrets that an endpoint may quote: the values of its address's query, and the signatures."""
    values = {part.rpartition("=")[2] for part in url.partition("?")[2].split("&")}
    signatures = headers.get("webhook-signature", "").replace("v1,", "").split()
    return {*values, *map(unquote, values), *signatures}
