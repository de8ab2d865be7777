"""Evidence of a failed attempt: the page, asked from the tab itself, so that a hung driver does not matter."""

import base64
from time import monotonic
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

from app.clients.browsers.devtools import RedirectWatcher
from app.clients.texts import storable
from app.services.interfaces import AuthorizationRequest, PageEvidence
from app.utils.masking import mask_text

_SECONDS: Final = 3.0
"""Seconds for all of it: a slot waits behind it."""
_LOOK_SECONDS: Final = 1.0
"""A page that does not answer within them is in an endless script."""
_QUALITIES: Final = (60, 25)
_SECRET_IN_REDIRECT: Final = ("code", "state", "oauth_token", "oauth_verifier", "denied")
_SHOWN_PROTOCOLS: Final = ("http", "https")
_MAX_SEARCHED: Final = 5000
_MAX_TITLE_LENGTH: Final = 300
_MAX_URL_LENGTH: Final = 1000
_MAX_LINE_LENGTH: Final = 500
_MAX_TEST_ID_LENGTH: Final = 100

_LOOK: Final = r"""
(() => {
  for (const field of document.querySelectorAll('input, textarea')) {
    field.style.setProperty('transition', 'none', 'important');
    field.style.setProperty('color', 'transparent', 'important');
    field.style.setProperty('-webkit-text-fill-color', 'transparent', 'important');
    field.style.setProperty('text-shadow', 'none', 'important');
  }
  const shown = [...document.querySelectorAll('[data-testid]')].filter((e) => e.getClientRects().length > 0);
  const ids = [...new Set(shown.map((e) => e.getAttribute('data-testid')))];
  return {title: document.title, test_ids: ids.slice(0, 100)};
})()
"""
"""Hides what a person typed, a password that is shown or a one-time code, and changes nothing else."""


def capture(
    tab: RedirectWatcher, *, authorization: AuthorizationRequest, max_bytes: int
) -> PageEvidence | None:
    """Return the evidence of 3 seconds at most, secrets masked; None when the browser does not answer.

    A page in an endless script tells its address and title alone. `max_bytes`: of the screenshot; a larger one is
    taken again at a lower quality, or left out.
    """
    deadline = monotonic() + _SECONDS
    target = (tab.ask("Target.getTargetInfo", seconds=_LOOK_SECONDS) or {}).get("targetInfo")
    if target is None:
        return None
    parts = urlsplit(target.get("url", ""))
    url = f"{parts.scheme}:"  # of ``data:`` and its like the scheme alone: the rest is the page itself
    if parts.scheme in _SHOWN_PROTOCOLS:
        url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    secrets = _known_secrets(authorization, tab.redirect)
    answer = tab.ask("Runtime.evaluate", seconds=_LOOK_SECONDS, expression=_LOOK, returnByValue=True)
    look = (answer or {}).get("result", {}).get("value")
    has_answered = isinstance(look, dict)
    fields: dict[str, Any] = look if has_answered else {}
    return PageEvidence(
        url=_text(url, secrets, _MAX_URL_LENGTH),
        title=_text(fields.get("title", target.get("title", "")), secrets, _MAX_TITLE_LENGTH),
        test_ids=tuple(_text(each, secrets, _MAX_TEST_ID_LENGTH) for each in fields.get("test_ids", ())),
        console=tuple(_text(line, secrets, _MAX_LINE_LENGTH) for line in list(tab.console_errors)),
        # A page that did not answer has not hidden its passwords.
        screenshot=_screenshot(tab, deadline, max_bytes) if has_answered else None,
    )


def _screenshot(tab: RedirectWatcher, deadline: float, max_bytes: int) -> bytes | None:
    for quality in _QUALITIES:
        remaining = deadline - monotonic()
        answer = tab.ask("Page.captureScreenshot", seconds=remaining, format="jpeg", quality=quality)
        if answer is None:
            return None
        image = base64.b64decode(answer["data"])
        if len(image) <= max_bytes:
            return image
    return None


def _known_secrets(authorization: AuthorizationRequest, redirect: str | None) -> set[str]:
    """Return the attempt's own secrets in each spelling of a URL."""
    query = parse_qs(urlsplit(redirect or "").query)
    values = (authorization.state, authorization.code_verifier, authorization.request_token_secret)
    plain = {secret.get_secret_value() for secret in values if secret is not None}
    plain.update(value for name in _SECRET_IN_REDIRECT for value in query.get(name, ()))
    return plain | {quote(secret, safe="") for secret in plain}


def _text(value: Any, secrets: set[str], max_length: int) -> str:
    return mask_text(storable(str(value))[:_MAX_SEARCHED], secrets=secrets)[:max_length]
