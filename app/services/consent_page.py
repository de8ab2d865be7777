"""Reading the provider's consent page: what it shows, told by marks that the provider set, never by guessing."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from selenium.webdriver.remote.webelement import WebElement

from app.services.providers import ConsentPageRules
from app.utils.handles import bare_handle

_LOOKED_AT: Final = 5000
"""Characters of a page's text: secrets are looked for before it is cut."""


class PageKind(StrEnum):
    READY = "ready"
    """A consent button is there and enabled."""
    BANNER = "banner"
    """Something covers the page and can be dismissed."""
    CHOOSER = "chooser"
    """The provider asks which of the signed-in accounts to use."""
    LOGIN = "login"
    LOCKED = "locked"
    HUMAN_CHECK = "human_check"
    HOME = "home"
    """Where a person lands after logging in, away from the consent."""
    ERROR = "error"
    UNKNOWN = "unknown"
    """None of these (yet)."""

    @property
    def asks_for_person(self) -> bool:
        return self in (PageKind.LOGIN, PageKind.LOCKED, PageKind.HUMAN_CHECK)


@dataclass(frozen=True)
class PageState:
    kind: PageKind
    handle: str | None = None
    """The signed-in account, lower case, when the page shows it."""
    detail: str = ""
    """An error's text; of a chooser the accounts that it offers."""
    button: WebElement | None = None
    """What to press; of a chooser the asked account, None when it is not offered."""
    has_button: bool = False
    """A consent button is there, though it cannot be pressed."""
    is_hung: bool = False
    """The page did not even answer."""

    @classmethod
    def from_script(cls, result: dict[str, Any] | None) -> "PageState":
        found = result or {"kind": "unknown"}
        handle = found.get("handle")
        return cls(
            kind=PageKind(found["kind"]),
            handle=bare_handle(handle) if handle else None,
            detail=(found.get("detail") or "")[:_LOOKED_AT],
            button=found.get("button"),
            has_button=found.get("hasButton", False),
        )


def script_rules(
    rules: ConsentPageRules, account_id: str, *, ignore: Collection[PageKind] = ()
) -> dict[str, Any]:
    """The scripts' first argument. Kinds to `ignore` are not told of: what they would be told for is waited out."""
    return {**asdict(rules), "account": account_id, "ignore": sorted(ignore)}


_LOOK: Final = r"""
const rules = arguments[0];
const all = (selector) => {
  if (!selector) return [];
  if (!/^[(]|^\/\//.test(selector)) return [...document.querySelectorAll(selector)];
  const found = document.evaluate(selector, document, null, XPathResult.ORDERED_NODE_SNAPSHOT_TYPE, null);
  return [...Array(found.snapshotLength).keys()].map((i) => found.snapshotItem(i));
};
const visible = (element) => element.getClientRects().length > 0;
const enabled = (element) => !element.disabled && element.getAttribute('aria-disabled') !== 'true';
const usable = (selectors) => selectors.flatMap(all).find((e) => visible(e) && enabled(e));
const shown = (selectors) => selectors.flatMap(all).find(visible);
const wanted = (kind) => !rules.ignore.includes(kind);
const names = (element) => [element.innerText, element.value, element.getAttribute('aria-label'),
  ...Object.values(element.dataset), ...[...(element.labels || [])].map((label) => label.innerText)]
  .filter((name) => typeof name === 'string' && name.trim()).map((name) => name.trim().toLowerCase());
const words = (name) => name.split(/[\s,;()<>]+/);
const isAsked = [
  (name) => name === rules.account || name === '@' + rules.account,
  (name) => words(name).includes('@' + rules.account),
  (name) => words(name).includes(rules.account),
];
const chooser = (choices) => {
  const named = isAsked.map((test) => choices.filter((element) => names(element).some(test)));
  const asked = named.find((found) => found.length) || [];  // by the clearest name that any of them has
  const button = asked.length === 1 ? asked[0] : null;
  return {kind: 'chooser', button, detail: choices.map((c) => names(c)[0] || '?').join(', ')};
};
const look = (settled) => {
  const path = location.pathname;
  const under = (prefix) => path === prefix || path.startsWith(prefix + '/');
  if (rules.locked_paths.some(under)) return {kind: 'locked'};
  if (rules.login_paths.some(under) || shown(rules.login_marks)) return {kind: 'login'};
  const error = shown(rules.error_details);
  if (error) return {kind: 'error', detail: error.innerText};
  const text = (document.body ? document.body.innerText : '').toLowerCase();
  if (rules.human_check_texts.some((t) => text.includes(t))) return {kind: 'human_check'};
  const errorText = rules.error_texts.find((t) => text.includes(t));
  if (errorText) return {kind: 'error', detail: errorText};
  if (rules.home_paths.includes(path) && wanted('home')) return {kind: 'home'};
  const banner = usable(rules.banner_buttons);
  if (banner && wanted('banner')) return {kind: 'banner', button: banner};
  const choices = all(rules.account_choices).filter(visible);
  if (choices.length) return wanted('chooser') ? chooser(choices) : {kind: 'unknown'};
  const own = rules.consent_buttons.flatMap(all);
  let button = usable(rules.consent_buttons);
  if (!button && settled && own.length === 0) button = usable(rules.fallback_buttons);
  if (!button) return {kind: 'unknown', hasButton: own.length > 0};
  const cell = shown([rules.signed_in_handle]);
  const handle = cell && cell.innerText.match(new RegExp(rules.handle_pattern));
  if (rules.signed_in_handle && !handle && !settled) return {kind: 'unknown', hasButton: true};
  return {kind: 'ready', button, handle: handle ? handle[1] : null};
};
"""

LOOK_NOW: Final = _LOOK + "return look(false);"
"""Argument: `script_rules`. What the page shows at this moment; it may still be building itself."""

FIND_CONTINUE: Final = (
    _LOOK
    + r"""
if (!shown([rules.account_choices])) return {kind: 'unknown'};
return {kind: 'chooser', button: usable([rules.account_continue]) || null};
"""
)
"""Argument: `script_rules`. The button that confirms the chosen account, while the page still asks for one."""

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
"""Arguments: `script_rules`, timeout and settle time in ms. Ends as soon as the page shows something known.

The wait is done in the page, by its own mutations: no polling, no round trips. Fallback buttons count only when the
page has loaded and nothing has changed for the settle time, so that a half-built page is not pressed at a guess; so
does a consent button while the account that is signed in is not shown yet.
"""
