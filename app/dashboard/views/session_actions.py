"""Actions on all sessions that the filters of the list match, confirmed with their number."""

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from app.api.dependencies import AuthorizeCallerDep, ContextDep, DbDep, ReadDbDep
from app.api.schemas.authorization import SessionListQuery
from app.dashboard.notices import redirect
from app.dashboard.page_route import SignedInRoute, parse, read_query
from app.dashboard.pages import query_string, render
from app.services.authorizations.bulk import MAX_SESSIONS, SessionAction

_LIST: Final = "/ui/sessions"
_FIELDS: Final = frozenset(SessionListQuery.model_fields) - {"page", "page_size", "cursor", "order"}
_NAMED: Final = 10
"""Accounts that the confirmation names."""
_TEXTS: Final = {
    SessionAction.RETRY: "They wait for their start again, with as many attempts as new ones.",
    SessionAction.RESUME: "Their profiles open at the page that needs a person, as many at once as there are slots: "
    "somebody must act in each.",
    SessionAction.CANCEL: "They end now, and running browsers are stopped. No tokens are stored.",
}
_DONE: Final = {
    SessionAction.RETRY: ("waits for its next attempt", "wait for their next attempt"),
    SessionAction.RESUME: ("waits for its person", "wait for their person"),
    SessionAction.CANCEL: ("is cancelled", "are cancelled"),
}
"""What is said of one session, and of several."""

router = APIRouter(prefix="/ui/session-actions", route_class=SignedInRoute, include_in_schema=False)


class _ConfirmedCount(BaseModel):
    expected_count: int = Field(ge=1, le=MAX_SESSIONS)


@router.get("/{action}")
async def confirm(
    request: Request, action: SessionAction, caller: AuthorizeCallerDep, context: ContextDep, db: ReadDbDep
) -> Response:
    query = read_query(request, SessionListQuery)
    given = {name: value for name, value in request.query_params.items() if name in _FIELDS and value.strip()}
    back = f"{_LIST}{query_string(given)}"
    plan = await context.sessions.actions.plan(db, action, query.filter(), access=caller.access)
    count, total = len(plan.sessions), plan.total
    if not count:
        return redirect(request, back, f"None of these sessions can be changed by “{action}”.")
    names = list(dict.fromkeys(f"@{row.account_id}" for row in plan.sessions))
    others = f" and {len(names) - _NAMED} other accounts" if len(names) > _NAMED else ""
    text = f"{_TEXTS[action]} They are of {', '.join(names[:_NAMED])}{others}."
    if not total.is_exact or total.number > count:
        more = "" if total.is_exact else " or more"
        text += f" These are the newest ones of {total.number:,}{more}; do it again for the others."
    noun = "session" if count == 1 else "sessions"
    return render(
        request,
        "confirm.html",
        title=f"{action.capitalize()} {count:,} {noun}?",
        text=text,
        label=f"{action.capitalize()} {count:,} {noun}",
        back=back,
        fields=given | {"expected_count": count},
    )


@router.post("/{action}")
async def act(
    request: Request, action: SessionAction, caller: AuthorizeCallerDep, context: ContextDep, db: DbDep
) -> RedirectResponse:
    form: dict[str, str] = request.state.form
    given = {name: form[name] for name in sorted(_FIELDS) if form.get(name, "").strip()}
    expected = parse(_ConfirmedCount, {"expected_count": form.get("expected_count", "")}).expected_count
    filters = parse(SessionListQuery, given).filter()
    changed = await context.sessions.actions.run(
        db, action, filters, expected_count=expected, actor=caller.name, access=caller.access
    )
    one, several = _DONE[action]
    text = f"1 session {one}." if changed == 1 else f"{changed:,} sessions {several}."
    if changed < expected:
        text += f" Left unchanged: {expected - changed:,}, changed meanwhile, or with an open session of the account."
    return redirect(request, f"{_LIST}{query_string(given)}", text)
