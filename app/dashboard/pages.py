"""Rendering of templates: what every page has, and the filters that templates use."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from app import __version__
from app.config import Environment as ServiceEnvironment
from app.config import Settings
from app.dashboard.assets import Assets
from app.dashboard.notices import read_notice
from app.models import CredentialStatus, SessionStatus
from app.services.keys.service import Caller, Scope
from app.services.tokens.account_states import AccountState
from app.utils.exceptions import ErrorCode

THEME_COOKIE: Final = "gologin_theme"
THEMES: Final = ("auto", "light", "dark")
_DAY: Final = 86_400
_HOUR: Final = 3_600


class Pages:
    """The templates and the files that they name."""

    def __init__(self, settings: Settings) -> None:
        self.assets = Assets()
        self.is_secure = settings.environment is not ServiceEnvironment.DEVELOPMENT
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters |= {
            "moment": moment,
            "seconds": seconds,
            "words": words,
            "code_text": code_text,
            "error_help": error_help,
            "pairs": pairs,
            "plain": plain,
            "minute": minute,
            "hours_later": hours_later,
            "pluralize": pluralize,
        }
        self._templates.globals |= {
            "asset": self.assets.url,
            "version": __version__,
            "query": query_string,
            "account_path": account_path,
            "profile_path": profile_path,
            "Scope": Scope,
            "statuses": list(SessionStatus),
            "credential_statuses": list(CredentialStatus),
            "account_states": list(AccountState),
            "error_codes": sorted(ErrorCode),
        }

    def text(self, request: Request, template: str, **values: Any) -> str:
        """Return what a template makes of these values and of those that every page has, where they are not given."""
        caller: Caller | None = getattr(request.state, "caller", None)
        common = {
            "caller": caller,
            "csrf": getattr(request.state, "csrf", ""),
            "theme": theme_of(request),
            "here": request.url.path,
            "here_with_query": f"{request.url.path}?{request.url.query}".rstrip("?"),
        }
        return self._templates.get_template(template).render(common | values)


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Answer with a page; a notice that the last action has left is shown once."""
    pages: Pages = request.app.state.pages
    notice = read_notice(request)
    text = pages.text(request, template, **{"notice": notice} | values)
    response = HTMLResponse(text, status)
    if notice is not None:
        notice.forget(response)
    return response


def theme_of(request: Request) -> str:
    chosen = request.cookies.get(THEME_COOKIE, THEMES[0])
    return chosen if chosen in THEMES else THEMES[0]


def moment(value: datetime | None, otherwise: str = "–") -> Markup | str:
    """Return a time for the reader's zone, which a script knows; `otherwise` when there is none."""
    if value is None:
        return otherwise
    exact = value.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        exact.isoformat(), exact.isoformat(), f"{exact:%Y-%m-%d %H:%M:%S} UTC"
    )


def seconds(value: float | timedelta | None) -> str:
    """Return a duration as people say it."""
    if value is None:
        return "–"
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if number < 60:
        return f"{number:.1f} s"
    if number < _HOUR:
        return f"{number // 60:.0f} min {number % 60:.0f} s"
    if number < _DAY:
        return f"{number // _HOUR:.0f} h {number % _HOUR // 60:.0f} min"
    return f"{number // _DAY:.0f} d {number % _DAY // _HOUR:.0f} h"


def words(value: object) -> str:
    """Return a status or a stage as words."""
    return str(value).replace("_", " ")


def code_text(value: str) -> Markup:
    """Return a text in which code stands between backticks."""
    parts = str(value).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def error_help(code: str) -> str | None:
    """Return what the documentation says about an error code; None for one that it does not know."""
    return ErrorCode(code).description if code in list(ErrorCode) else None


def plain(value: object) -> str:
    """Return a value of an event as text; one that is no text as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def pairs(values: Iterable[str]) -> list[tuple[str, str]]:
    """Return the options of a choice: each value with its text."""
    return [(str(value), words(value) if isinstance(value, StrEnum) else value) for value in values]


def minute(value: str) -> str:
    """Return a time of an address as a field for times takes it, in UTC; empty when it is none."""
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return ""
    return (parsed.astimezone(UTC) if parsed.tzinfo else parsed).strftime("%Y-%m-%dT%H:%M:%S")


def hours_later(value: datetime, hours: float) -> datetime:
    return value + timedelta(hours=hours)


def pluralize(number: int | None, singular: str, plural: str) -> str:
    """Return the words that agree with a number; None: a number that is not known."""
    return singular if number == 1 else plural


def account_path(account_id: str) -> str:
    """Return the address of an account's page."""
    return f"/ui/accounts/{quote(account_id, safe='')}"


def profile_path(profile_id: str) -> str:
    """Return the address of a profile's page."""
    return f"/ui/profiles/{quote(profile_id, safe='')}"


def query_string(values: Mapping[str, object], **changes: object) -> str:
    """Return the query of an address with these values; None leaves one out."""
    merged = {name: value for name, value in (dict(values) | changes).items() if value is not None}
    return f"?{urlencode(merged)}" if merged else ""
