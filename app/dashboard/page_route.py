"""Routes of pages: sign-in, origin and form token are checked first, and a refusal is a page, too."""

import hmac
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from app.api.dependencies import identify
from app.api.errors import invalid_request
from app.context import Context
from app.dashboard.pages import render
from app.services.keys.dashboard_sessions import csrf_token
from app.services.keys.service import Caller
from app.utils.exceptions import (
    AppException,
    AuthenticationException,
    AuthenticationLimitException,
    BodyTooLargeException,
    FormRefusedException,
    InvalidRequestException,
    PermissionDeniedException,
    RouteNotFoundException,
    UnsupportedMediaTypeException,
)
from app.utils.logger import get_logger
from app.utils.masking import mask_own

SESSION_COOKIE: Final = "gologin_ui"
COOKIE_PATH: Final = "/ui"
SIGN_IN_PATH: Final = "/ui/sign-in"
_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FIELDS: Final = 50
_OWN_PATH: Final = re.compile(r"/ui(/[\w.~%@:+-]+)*/?(\?[\w.~%=&+@:/-]*)?", re.ASCII)
_MINUTES_ONLY: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?")
"""A time as a field of a form has it when no script has added its zone."""

PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    # Not "no-referrer", with which browsers call the origin of our own forms "null".
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Cookie, HX-Request",
}

log = get_logger(__name__)
Q = TypeVar("Q", bound=BaseModel)
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A page that needs no sign-in. What is no GET must come from a page of ours; its form is in `state.form`."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                if request.method != "GET":
                    require_own_origin(request)
                await self.prepare(request)
                response = await handle(request)
            except Exception as error:
                response = _refuse(request, error)
            for name, value in PAGE_HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return handle_page

    async def prepare(self, request: Request) -> None:
        """Check what the route asks for, before its handler runs, and read the form."""
        if request.method != "GET":
            request.state.form = await self.read_form(request)

    async def read_form(self, request: Request) -> dict[str, str]:
        """Return the fields of the form. Raises `UnsupportedMediaTypeException`, `InvalidRequestException`."""
        return await _read_form(request)


class SignedInRoute(PageRoute):
    """A page of a signed-in operator: sets `state.caller`, as the API does for a key."""

    is_activity = True
    """A request of a person, before which the sign-in was idle."""

    async def prepare(self, request: Request) -> None:
        context: Context = request.app.state.context
        session_id = request.cookies.get(SESSION_COOKIE)
        await identify(
            request,
            lambda: context.dashboard_sessions.authenticate(session_id, is_activity=self.is_activity),
        )
        assert session_id is not None
        request.state.session_id = session_id
        request.state.csrf = csrf_token(session_id)
        await super().prepare(request)  # after the sign-in: a form may be large
        if request.method != "GET":
            sent = request.headers.get("X-CSRF-Token") or request.state.form.get("csrf", "")
            if not hmac.compare_digest(sent.encode(), request.state.csrf.encode()):
                raise FormRefusedException


class LiveRoute(SignedInRoute):
    """Asked for by an open page itself, which keeps no sign-in from ending."""

    is_activity = False


def require_own_origin(request: Request) -> None:
    """Refuse what a page of another origin sends. Raises `FormRefusedException`.

    Browsers send `Sec-Fetch-Site` over TLS and to this machine; over plain HTTP their `Origin` must be this host.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        is_own = site == "same-origin"
    else:
        origin = urlsplit(request.headers.get("Origin", ""))
        is_own = bool(origin.netloc) and origin.netloc == request.headers.get("Host")
    if not is_own:
        raise FormRefusedException


def read_query(request: Request, model: type[Q]) -> Q:
    """Return the filters of a list: fields that are left empty do not matter. Raises `InvalidRequestException`."""
    return parse(model, {name: value for name, value in request.query_params.items() if value.strip()})


def parse(model: type[Q], values: Mapping[str, Any]) -> Q:
    """Return the values as the API's schema reads them. Raises `InvalidRequestException`."""
    given = {
        name: f"{value}Z" if _MINUTES_ONLY.fullmatch(str(value)) else value for name, value in values.items()
    }
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid_request(error.errors()) from None


def own_path(value: str | None, otherwise: str) -> str:
    """Return an address that a form names, when it is one of ours."""
    return value if value and _OWN_PATH.fullmatch(value) else otherwise


async def _read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form. Raises `UnsupportedMediaTypeException`, `InvalidRequestException`."""
    if request.headers.get("Content-Type", _FORM).partition(";")[0].strip().lower() != _FORM:
        raise UnsupportedMediaTypeException(_FORM)
    body = await request.body()
    try:
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise InvalidRequestException("The form cannot be read; load the page again") from None
    if any("\x00" in text for field in fields for text in field):
        raise InvalidRequestException("A form holds no NUL character")
    return dict(fields)


def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = invalid_request(error.errors())
    elif isinstance(error, HTTPException):
        error = _own_exception(error)
    elif not isinstance(error, AppException):
        log.error("http.crashed", method=request.method, path=request.url.path, exc_info=error)
        error = AppException()
    assert isinstance(error, AppException)
    request.state.error_code = error.error_code
    if error.status_code >= 500:
        log.error("http.error", error_code=error.error_code, error=error.message)
    is_unknown = isinstance(error, AuthenticationException)
    if is_unknown and not request.url.path.startswith((SIGN_IN_PATH, "/ui/enter")):
        return _to_sign_in(request)
    return error_page(request, error)


def error_page(request: Request, error: AppException) -> Response:
    """Return the page of a refusal; a part of a page asks for the sentence alone."""
    template = "_problem.html" if request.headers.get("HX-Request") else "problem.html"
    scope = error.scope if isinstance(error, PermissionDeniedException) else None
    response = render(
        request,
        template,
        status=error.status_code,
        message=_words(request, mask_own(error.message)),
        code=str(error.error_code),
        missing_scope=scope,
    )
    if isinstance(error, AuthenticationLimitException) or error.retry_after:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after or 1)))
    return response


def _words(request: Request, message: str) -> str:
    """Return the sentence for the caller of the page: a person has no API key."""
    caller: Caller | None = getattr(request.state, "caller", None)
    is_person = caller is not None and caller.person_id is not None
    return message.replace("his API key", "his sign-in") if is_person else message


def _own_exception(error: HTTPException) -> AppException:
    if error.status_code == BodyTooLargeException.status_code:
        return InvalidRequestException(str(error.detail))
    return RouteNotFoundException("There is no such page")


def _to_sign_in(request: Request) -> Response:
    """Send the browser to the sign-in, and back afterwards. Its cookie, which is worth nothing, goes."""
    if request.headers.get("HX-Request"):
        response = Response(status_code=401, headers={"HX-Redirect": SIGN_IN_PATH})
    elif request.method == "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site":
        # A link from elsewhere: the browser held the strict cookie back. Ours, to the same address, brings it.
        return render(request, "continue.html", url=_own_address(request))
    else:
        is_get = request.method == "GET"
        next_page = f"?next={quote(_own_address(request), safe='')}" if is_get else ""
        response = RedirectResponse(f"{SIGN_IN_PATH}{next_page}", 303)
    response.delete_cookie(SESSION_COOKIE, path=COOKIE_PATH)
    return response


def _own_address(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return own_path(f"{request.url.path}{query}", COOKIE_PATH)
