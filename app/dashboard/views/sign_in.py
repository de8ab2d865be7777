"""Signing in with an API key or a one-time link, signing out, and the theme; `single_sign_on` has the third way in."""

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import ContextDep, identify
from app.context import Context
from app.dashboard.page_route import (
    COOKIE_PATH,
    SESSION_COOKIE,
    SIGN_IN_PATH,
    PageRoute,
    SignedInRoute,
    own_path,
)
from app.dashboard.pages import THEME_COOKIE, THEMES, query_string, render
from app.services.keys.people import Person
from app.services.keys.service import Caller
from app.utils.exceptions import AppException, AuthenticationException

HOME: Final = "/ui"
_YEAR: Final = 31_536_000

open_router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
router = APIRouter(prefix="/ui", route_class=SignedInRoute, include_in_schema=False)


@open_router.get("/sign-in")
async def show_sign_in(request: Request, context: ContextDep) -> Response:
    next_page = own_path(request.query_params.get("next"), HOME)
    return sign_in_page(request, context, next_page=next_page)


@open_router.post("/sign-in")
async def sign_in(request: Request, context: ContextDep) -> Response:
    form: dict[str, str] = request.state.form
    next_page = own_path(form.get("next"), HOME)
    try:
        await identify(request, lambda: context.keys.authenticate(form.get("key", "").strip()))
    except AuthenticationException as error:
        problem = f"{error.reason}. Check the key, or ask an operator for one that works."
        return sign_in_page(request, context, error, next_page=next_page, key_problem=problem)
    return await begin_sign_in(request, context, RedirectResponse(next_page, 303), method="key")


@open_router.get("/enter")
async def show_enter(request: Request) -> Response:
    """Show the page of a one-time link: its script sends the ticket, which the address holds behind a #."""
    return render(request, "enter.html")


@open_router.post("/enter")
async def enter(request: Request, context: ContextDep) -> Response:
    ticket: str = request.state.form.get("ticket", "")

    async def redeem() -> Caller:
        return await context.dashboard_sessions.redeem(ticket)

    await identify(request, redeem)
    return await begin_sign_in(request, context, RedirectResponse(HOME, 303), method="link")


@open_router.post("/theme")
async def choose_theme(request: Request) -> Response:
    form: dict[str, str] = request.state.form
    response = RedirectResponse(own_path(form.get("next"), HOME), 303)
    theme = form.get("theme")
    if theme in THEMES:
        response.set_cookie(
            THEME_COOKIE,
            theme,
            max_age=_YEAR,
            path=COOKIE_PATH,
            httponly=True,
            samesite="strict",
            secure=request.app.state.pages.is_secure,
        )
    return response


@router.post("/sign-out")
async def sign_out(request: Request, context: ContextDep) -> Response:
    await context.dashboard_sessions.end(request.state.session_id, caller=request.state.caller)
    response = RedirectResponse(SIGN_IN_PATH, 303)
    response.delete_cookie(SESSION_COOKIE, path=COOKIE_PATH)
    return response


def sign_in_page(
    request: Request,
    context: Context,
    error: AppException | None = None,
    *,
    next_page: str,
    key_problem: str | None = None,
) -> Response:
    """Return the page with both ways to sign in. `key_problem`: sentence about the key, if `error` is about one."""
    if error is not None:
        request.state.error_code = error.error_code
    return render(
        request,
        "sign_in.html",
        status=200 if error is None else error.status_code,
        next_page=next_page,
        key_problem=key_problem,
        error=None if key_problem else error,
        provider=None if context.single_sign_on is None else context.settings.oidc_name,
        here_with_query=SIGN_IN_PATH + query_string({"next": next_page}),
    )


async def begin_sign_in(
    request: Request, context: Context, response: Response, *, method: str, person: Person | None = None
) -> Response:
    """Begin a sign-in of `state.caller` with a new id, whatever id the browser has sent, and give it to the browser."""
    session_id = await context.dashboard_sessions.begin(
        request.state.caller, person=person, replaces=request.cookies.get(SESSION_COOKIE), method=method
    )
    response.set_cookie(
        SESSION_COOKIE,
        session_id.get_secret_value(),
        path=COOKIE_PATH,
        httponly=True,
        samesite="strict",
        secure=request.app.state.pages.is_secure,
    )
    return response


router.routes.extend(open_router.routes)
