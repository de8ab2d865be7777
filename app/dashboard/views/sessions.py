"""Sessions: the list with its filters, and the request of a new one."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import AuthorizeCallerDep, ContextDep, ReadDbDep, SessionsReadCallerDep
from app.api.schemas.authorization import AuthorizeRequest, SessionListQuery
from app.dashboard.listing import app_names, render_list
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute, parse, read_query
from app.services.authorizations import queries

router = APIRouter(prefix="/ui", route_class=SignedInRoute, include_in_schema=False)


@router.get("/sessions")
async def list_sessions(
    request: Request, caller: SessionsReadCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    query = read_query(request, SessionListQuery)

    return await render_list(
        request,
        "sessions.html",
        query,
        list_name="ui sessions",
        fetch=lambda page: queries.fetch_page(db, query.filter(), page, access=caller.access),
        descending=query.order == "desc",
        apps=app_names(context, caller),
    )


@router.post("/sessions")
async def request_session(
    request: Request, caller: AuthorizeCallerDep, context: ContextDep
) -> RedirectResponse:
    """Ask for an authorization of an account."""
    form = request.state.form
    body = parse(AuthorizeRequest, {name: form.get(name, "") for name in ("account_id", "api_app")})
    result = await context.sessions.authorizations.submit(
        body.to_command(), caller=caller, idempotency_key=None
    )
    text = "The session is requested." if result.is_new else "This session of the account is open already."
    return redirect(request, f"/ui/sessions/{result.session_id}", text)
