"""Shared parts of lists: pages by cursor, the filters that are given, and the apps that a caller may see."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response

from app.api.schemas.paging import CursorQuery, PageQuery, Pager
from app.context import Context
from app.dashboard.pages import render
from app.services.keys.service import Caller
from app.services.shared.paging import Page, PageRequest

_PAGING = frozenset(PageQuery.model_fields)


async def render_list(
    request: Request,
    template: str,
    query: CursorQuery,
    *,
    list_name: str,
    fetch: Callable[[PageRequest], Awaitable[Page[Any]]],
    sort: str = "id",
    descending: bool = False,
    **values: Any,
) -> Response:
    """Answer with a page of a list, which `fetch` reads from the service."""
    context: Context = request.app.state.context
    pager = Pager(query, context.cursors, request.state.caller, list_name=list_name)
    answer = pager.answer(await fetch(pager.request(sort=sort, descending=descending)), lambda row: row)
    given = {
        name: value for name, value in request.query_params.items() if value.strip() and name not in _PAGING
    }
    return render(request, template, rows=answer.data, answer=answer, given=given, **values)


def app_names(context: Context, caller: Caller) -> list[str]:
    """Return the OAuth apps of the settings that the caller may name."""
    apps = caller.access.api_apps
    return sorted(name for name in context.settings.oauth_apps if not apps or name in apps)
