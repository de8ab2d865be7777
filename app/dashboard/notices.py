"""Notices: a sentence about the last action, kept in a cookie until the next page shows it."""

import base64
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

_COOKIE: Final = "gologin_notice"
_PATH: Final = "/ui"
_LIFETIME: Final = 60
"""Seconds."""
_MAX_LENGTH: Final = 500


@dataclass(frozen=True)
class Notice:
    text: str

    def forget(self, response: Response) -> None:
        """Let the next page show it no more."""
        response.delete_cookie(_COOKIE, path=_PATH)


def read_notice(request: Request) -> Notice | None:
    value = request.cookies.get(_COOKIE)
    if not value:
        return None
    try:
        return Notice(base64.urlsafe_b64decode(value).decode()[:_MAX_LENGTH])
    except ValueError:
        return None


def redirect(request: Request, path: str, notice: str) -> RedirectResponse:
    """Send the browser to a page that shows the notice. A reload of it repeats no action."""
    response = RedirectResponse(path, 303)
    value = base64.urlsafe_b64encode(notice[:_MAX_LENGTH].encode()).decode()
    response.set_cookie(
        _COOKIE,
        value,
        max_age=_LIFETIME,
        path=_PATH,
        httponly=True,
        samesite="strict",
        secure=request.app.state.pages.is_secure,
    )
    return response
