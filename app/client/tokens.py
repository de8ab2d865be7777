"""The tokens that a client keeps, and who asks for one; threads may share it; no I/O."""

import threading
import time
from copy import copy
from dataclasses import dataclass

from .answers import Token
from .errors import ServiceError

Key = tuple[str, str]
"""Account and app."""


@dataclass(frozen=True)
class CachedToken:
    """A cached token. Either clock may be wrong: one stands still while the machine sleeps, the other may be set."""

    token: Token
    usable: float
    """Seconds since then."""
    monotonic: float
    wall: float


@dataclass
class TokenRequest:
    """The one who asks for a token, for all who come meanwhile: it may not live long enough for the cache."""

    min_ttl: float
    token: Token | None = None
    error: ServiceError | None = None

    def token_for(self, min_ttl: float) -> Token | None:
        """Return a token that serves other callers, too. Raises the error of the caller that asked for it."""
        if self.error is not None and self.min_ttl <= min_ttl:
            raise copy(self.error)  # with a traceback of its own
        return self.token if self.min_ttl >= min_ttl else None


class TokenCache:
    """`margin`: seconds before its expiry from which a token is no longer handed out."""

    def __init__(self, margin: float) -> None:
        self._margin = margin
        self._cached: dict[Key, CachedToken] = {}
        self._requests: dict[Key, TokenRequest] = {}
        # Reentrant: the garbage collector may end a call, which has asked then, wherever this thread is.
        self._lock = threading.RLock()

    def get(self, key: Key, min_ttl: float) -> Token | None:
        cached = self._cached.get(key)
        if cached is None:
            return None
        age = max(time.monotonic() - cached.monotonic, time.time() - cached.wall)
        return cached.token if age < cached.usable - max(self._margin, min_ttl) else None

    def begin_request(self, key: Key, request: TokenRequest) -> TokenRequest:
        """Return the request that is under way for `key`: `request` from now on, if there is none."""
        with self._lock:
            return self._requests.setdefault(key, request)

    def keep(self, key: Key, request: TokenRequest, cached: CachedToken) -> None:
        """Keep a token, unless `forget` was called since `request` began."""
        with self._lock:
            if self._requests.get(key) is request:
                self._cached[key] = cached

    def end_request(self, key: Key, request: TokenRequest) -> None:
        """The next one asks anew."""
        with self._lock:
            if self._requests.get(key) is request:
                del self._requests[key]

    def forget(self, account_id: str, api_app: str | None) -> None:
        """Forget a token, also one that is being asked for."""
        with self._lock:
            for key in {*self._cached, *self._requests}:
                if key[0] == account_id and api_app in (None, key[1]):
                    self._cached.pop(key, None)
                    self._requests.pop(key, None)
