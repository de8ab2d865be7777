"""What the sandbox's own tests share."""

import base64
import hashlib
from collections.abc import Callable
from urllib.parse import urlencode

import pytest

from sandbox.config import SandboxInfo

VERIFIER = "v" * 64


@pytest.fixture
def authorize_url(info: SandboxInfo) -> Callable[..., str]:
    """`authorize_url("AIOTT1", state="…")`: a valid URL for `VERIFIER`; keywords replace or (None) remove parts."""

    def build(app_name: str, **changes: str | None) -> str:
        app = info.apps[app_name]
        challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
        query: dict[str, str | None] = {
            "response_type": "code",
            "client_id": app.client_id,
            "redirect_uri": app.redirect_uri,
            "scope": " ".join(app.scopes),
            "state": "state-1",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        parts = {name: value for name, value in (query | changes).items() if value is not None}
        return f"{info.provider_url}/i/oauth2/authorize?{urlencode(parts)}"

    return build
