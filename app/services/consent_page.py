"""Reading the provider's consent page: what it shows, told by marks that the provider set, never by guessing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from selenium.webdriver.remote.webelement import WebElement


class PageKind(StrEnum):
    READY = "ready"
    """A consent button is there and enabled."""
    LOGIN = "login"
    LOCKED = "locked"
    HUMAN_CHECK = "human_check"
    ERROR = "error"
    UNKNOWN = "unknown"
    """None of these (yet)."""


@dataclass(frozen=True)
class PageState:
    kind: PageKind
    handle: str | None = None
    """The signed-in account, lower case, when the page shows it."""
    detail: str = ""
    button: WebElement | None = None

    @classmethod
    def from_script(cls, result: dict[str, Any] | None) -> "PageState":
        found = result or {"kind": "unknown"}
        handle = found.get("handle")
        return cls(
            kind=PageKind(found["kind"]),
            handle=handle.lower() if handle else None,
            detail=(found.get("detail") or "")[:300],
            button=found.get("button"),
        )


_LOOK: Final = r"""
const rules = arguments[0];
const all = (selector) => {
  if (!selector.startsWith('//')) return [...document.querySelectorAll(selector)];
  const found = document.evaluate(selector, document, null, XPathResult.ORDERED_NODE_SNAPSHOT_TYPE, null);
  return [...Array(found.snapshotLength).keys()].map((i) => found.snapshotItem(i));
};
const visible = (element) => element.getClientRects().length > 0;
const usable = (selector) => all(selector).find(
  (e) => visible(e) && !e.disabled && e.getAttribute('aria-disabled') !== 'true');
const shown = (selector) => all(selector).find(visible);
const look = (settled) => {
  const path = location.pathname;
  const under = (prefix) => path === prefix || path.startsWith(prefix + '/');
  if (rules.locked_paths.some(under)) return {kind: 'locked'};
  if (rules.login_paths.some(under) || shown(rules.login_button)) return {kind: 'login'};
  const error = shown(rules.error_detail);
  if (error) return {kind: 'error', detail: error.innerText};
  const text = (document.body ? document.body.innerText : '').toLowerCase();
  if (rules.human_check_texts.some((t) => text.includes(t))) return {kind: 'human_check'};
  let button = usable(rules.consent_button);
  if (!button && settled && all(rules.consent_button).length === 0)
    button = rules.fallback_buttons.map(usable).find(Boolean);
  if (!button) return {kind: 'unknown'};
  const cell = shown(rules.signed_in_handle);
  const handle = cell && cell.innerText.match(/@(\w{1,50})/);
  return {kind: 'ready', button, handle: handle ? handle[1] : null};
};
"""

LOOK_NOW: Final = _LOOK + "return look(true);"
"""Arguments: the rules. What the page shows at this moment."""

WAIT_UNTIL_KNOWN: Final = (
    _LOOK
    + r"""
const [timeout, settle] = [arguments[1], arguments[2]];
const done = arguments[arguments.length - 1];
let quiet, finished = false;
const finish = (state) => {
  if (finished) return;
  finished = true;
  observer.disconnect();
  clearTimeout(quiet);
  clearTimeout(end);
  done(state);
};
const check = (settled) => {
  if (finished) return;
  const state = look(settled);
  if (state.kind !== 'unknown') return finish(state);
  clearTimeout(quiet);
  if (!settled) quiet = setTimeout(() => check(document.readyState === 'complete'), settle);
};
const observer = new MutationObserver(() => check(false));
observer.observe(document, {childList: true, subtree: true, attributes: true, characterData: true});
const end = setTimeout(() => finish(look(false)), timeout);
addEventListener('load', () => check(false));
check(false);
"""
)
"""Arguments: the rules, timeout and settle time in ms. Ends as soon as the page shows something known.

The wait is done in the page, by its own mutations: no polling, no round trips. Fallback buttons count only when the
page has loaded and nothing has changed for the settle time, so that a half-built page is not pressed at a guess.
"""
