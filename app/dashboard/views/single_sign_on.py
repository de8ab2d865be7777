"""Signing in at an OpenID Connect provider: to the provider, and back.

The browser gets there, and from the answer to the page, by pages of ours and not by redirects: a form may lead to this
service only (Content-Security-Policy), and the cookie of the sign-in is not sent in a chain that another site began.
"""

from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, Request, Response

from app.api.dependencies import ContextDep, identify
from app.api.http.client_address import client_address
from app.config import OIDC_CALLBACK_PATH
from app.context import Context
from app.dashboard.page_route import SIGN_IN_PATH, PageRoute, own_path
from app.dashboard.pages import render
from app.dashboard.views.sign_in import HOME, begin_sign_in, sign_in_page
from app.services.keys.people import ANSWER_WITHIN, Person
from app.services.keys.service import Caller
from app.utils.exceptions import (
    NoRightsException,
    RouteNotFoundException,
    SingleSignOnRefusedException,
    SingleSignOnUnavailableException,
)
from app.utils.logger import get_logger

if TYPE_CHECKING:
    from app.services.keys.single_sign_on import SingleSignOn

_COOKIE: Final = "gologin_sign_in"
_MAX_NEXT_PAGE: Final = 500

router = APIRouter(route_class=PageRoute, include_in_schema=False)
log = get_logger(__name__)


@router.post("/ui/sign-in/single-sign-on")
async def begin(request: Request, context: ContextDep) -> Response:
    """Send the browser to the provider. Each begin counts as a failed authentication, as nobody is known yet."""
    single_sign_on = _require(context)
    request.app.state.failed_authentications.add(client_address(request.scope))
    next_page = own_path(request.state.form.get("next"), HOME)
    next_page = next_page if len(next_page) <= _MAX_NEXT_PAGE else HOME
    try:
        secret, url = await single_sign_on.begin(next_page)
    except SingleSignOnUnavailableException as error:
        log.warning("single_sign_on.unavailable", error=error.message)
        return sign_in_page(request, context, error, next_page=next_page)
    response = render(request, "continue.html", url=url)
    response.set_cookie(
        _COOKIE,
        secret.get_secret_value(),
        max_age=round(ANSWER_WITHIN.total_seconds()),
        path=SIGN_IN_PATH,
        httponly=True,
        samesite="lax",  # the provider, another site, sends the browser back
        secure=request.app.state.pages.is_secure,
    )
    return response


@router.get(OIDC_CALLBACK_PATH)
async def finish(request: Request, context: ContextDep) -> Response:
    """Take the provider's answer; what goes wrong is told on the page of the sign-in, which also takes a key."""
    single_sign_on = _require(context)
    try:
        person, next_page = await single_sign_on.finish(
            request.cookies.get(_COOKIE), request.query_params.multi_items()
        )
    except SingleSignOnRefusedException as error:
        log.warning("single_sign_on.refused", error=error.message)
        request.app.state.failed_authentications.add(client_address(request.scope))
        return sign_in_page(request, context, error, next_page=HOME)
    except (SingleSignOnUnavailableException, NoRightsException) as error:
        log.warning("single_sign_on.failed", error_code=error.error_code, error=error.message)
        return sign_in_page(request, context, error, next_page=HOME)
    await identify(request, lambda: _caller_of(context, person))
    page = render(request, "continue.html", url=next_page, caller=None, here_with_query=HOME)
    page.delete_cookie(_COOKIE, path=SIGN_IN_PATH)
    return await begin_sign_in(request, context, page, method="oidc", person=person)


async def _caller_of(context: Context, person: Person) -> Caller:
    return context.dashboard_sessions.caller_of(person)


def _require(context: Context) -> "SingleSignOn":
    if context.single_sign_on is None:
        raise RouteNotFoundException("There is no such page")
    return context.single_sign_on
