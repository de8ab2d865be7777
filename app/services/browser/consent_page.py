"""Reading the provider's consent page: what it shows, told by marks that the provider set, never by guessing."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from selenium.webdriver.remote.webelement import WebElement

from app.services.browser.consent_places import ConsentPlaces
from app.services.oauth.provider import ConsentPageRules
from app.utils.handles import bare_handle

_MAX_SEARCHED: Final = 5000
"""Characters of a page's text: secrets are looked for before it is cut."""
_MAX_HANDLE: Final = 255


class PageKind(StrEnum):
    READY = "ready"
    """A consent button is there and enabled."""
    CHECKBOX = "checkbox"
    """A checkbox must be ticked before the consent."""
    FRAME = "frame"
    """The consent is in this iframe."""
    BANNER = "banner"
    """Something covers the page and can be dismissed."""
    CHOOSER = "chooser"
    """The provider asks which of the signed-in accounts to use."""
    LOGIN = "login"
    LOCKED = "locked"
    HUMAN_CHECK = "human_check"
    ELSEWHERE = "elsewhere"
    """A page that is built and is not the provider's consent page: nothing may be pressed there."""
    HOME = "home"
    """Page on which a person lands after logging in, away from the consent."""
    ERROR = "error"
    UNKNOWN = "unknown"
    """No other kind (yet)."""

    @property
    def asks_for_person(self) -> bool:
        return self in (PageKind.LOGIN, PageKind.LOCKED, PageKind.HUMAN_CHECK, PageKind.ELSEWHERE)


@dataclass(frozen=True)
class PageState:
    kind: PageKind
    handle: str | None = None
    """The signed-in account, lower case, when the page shows it."""
    detail: str = ""
    """An error's text; of a chooser the accounts that it offers."""
    button: WebElement | None = None
    """Element to press; of a chooser the asked account, None when it is not offered."""
    has_button: bool = False
    """A consent button is there, though it cannot be pressed."""
    reason: str = ""
    """Reason why that button cannot be pressed."""
    page: str = field(default="", repr=False)
    """One document at one address."""
    mark: str = ""
    """Rule that named the button."""
    is_alone: bool = False
    """No other consent button is visible."""
    is_elsewhere: bool = False
    """The page is not the provider's consent page."""
    is_of_provider: bool = True
    is_hung: bool = False
    """The page did not even answer."""

    @classmethod
    def from_script(cls, result: Any) -> "PageState":
        """Read a page's answer; anything odd is an unknown page."""
        fields = result if isinstance(result, dict) else {}
        kind, button = fields.get("kind"), fields.get("button")
        kind = PageKind(kind) if kind in {each.value for each in PageKind} else PageKind.UNKNOWN
        if not isinstance(button, WebElement):
            button = None
            kind = PageKind.UNKNOWN if kind in _WITH_BUTTON else kind
        return cls(
            kind=kind,
            handle=bare_handle(_text(fields.get("handle"), _MAX_HANDLE)) or None,
            detail=_text(fields.get("detail"), _MAX_SEARCHED),
            button=button,
            has_button=fields.get("hasButton") is True,
            reason=_text(fields.get("reason"), _MAX_SEARCHED),
            page=_text(fields.get("page"), _MAX_SEARCHED),
            mark=_text(fields.get("mark"), _MAX_SEARCHED),
            is_alone=fields.get("isAlone") is True,
            is_elsewhere=fields.get("elsewhere") is True,
            is_of_provider=fields.get("ofProvider") is True,
        )


_WITH_BUTTON: Final = (PageKind.READY, PageKind.CHECKBOX, PageKind.FRAME, PageKind.BANNER)


def script_rules(
    rules: ConsentPageRules,
    places: ConsentPlaces,
    account_id: str,
    *,
    ignore: Collection[PageKind] = (),
    in_frame: bool = False,
) -> dict[str, Any]:
    """The scripts' first argument. Kinds to `ignore` are not told of: what they would be told for is waited out."""
    return {
        **asdict(rules),
        "places": asdict(places),
        "account": account_id,
        "ignore": sorted(ignore),
        "in_frame": in_frame,
    }


def _text(value: Any, max_length: int) -> str:
    return value[:max_length] if isinstance(value, str) else ""
