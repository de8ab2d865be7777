"""Batches: progress and results, and how one begins: a file is checked row by row, shown, and then confirmed."""

import asyncio
import csv
import io
import uuid
from collections import Counter
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.api.dependencies import AuthorizeCallerDep, ContextDep, ReadDbDep, SessionsReadCallerDep
from app.api.schemas.batch import ResultListQuery, RowResponse, read_batch
from app.api.schemas.paging import PageQuery
from app.context import Context
from app.dashboard.listing import app_names, render_list
from app.dashboard.notices import redirect
from app.dashboard.page_route import LiveRoute, SignedInRoute, read_query
from app.dashboard.pages import render
from app.dashboard.uploads import CHECK_PATH, START_PATH, UploadRoute, pack, unpack
from app.services.batches import queries
from app.services.batches.creation import BatchCommand
from app.services.batches.queries import RowResult
from app.services.shared.paging import PageRequest
from app.utils.exceptions import InvalidRequestException
from app.utils.foreign_text import neutralise

_CSV: Final = "text/csv"
_OPTIONS: Final = ("api_app", "max_running", "stop_percent")
_SHOWN_ROWS: Final = 100
"""Rows of each kind that a preview shows; it counts all."""
_COLUMNS: Final = tuple(RowResponse.model_fields)

router = APIRouter(prefix=START_PATH, route_class=SignedInRoute, include_in_schema=False)
live_router = APIRouter(prefix=START_PATH, route_class=LiveRoute, include_in_schema=False)
upload_router = APIRouter(route_class=UploadRoute, include_in_schema=False)


@router.get("")
async def list_batches(request: Request, caller: SessionsReadCallerDep, db: ReadDbDep) -> Response:
    return await render_list(
        request,
        "batches.html",
        read_query(request, PageQuery),
        list_name="ui batches",
        fetch=lambda page: queries.fetch_batches(db, page, caller=caller),
        descending=True,
    )


@router.get("/new")
async def show_upload(request: Request, caller: AuthorizeCallerDep, context: ContextDep) -> Response:
    return render(
        request, "batch_upload.html", apps=app_names(context, caller), limits=_shown_limits(context)
    )


@upload_router.post(CHECK_PATH)
async def check(request: Request, caller: AuthorizeCallerDep, context: ContextDep) -> Response:
    """Show what would become of each row of an uploaded file. Nothing is kept: the confirmation sends it again."""
    content: bytes = request.state.upload
    if not content.strip():
        raise InvalidRequestException("No file came with the form, or an empty one; choose a CSV file")
    options, limits = _options(request), context.sessions.batches.limits
    command = await _read(context, content, options)
    async with context.database.reading() as db:
        results = await context.sessions.batches.check(db, command, caller=caller)
    rejected = [row for row in results if row.error_code is not None]
    return render(
        request,
        "batch_check.html",
        file_name=request.state.form.get("file", ""),
        accepted=_accepted(results)[:_SHOWN_ROWS],
        accepted_count=len(results) - len(rejected),
        existing_count=sum(row.existing for row in results),
        rejected=rejected[:_SHOWN_ROWS],
        rejected_count=len(rejected),
        reasons=Counter(row.error_code for row in rejected).most_common(),
        # Only once, however often the button is pressed.
        fields={"content": await asyncio.to_thread(pack, content), "once": str(uuid.uuid4())} | options,
        max_running=command.max_running or limits.max_running,
        stop_percent=limits.stop_percent if command.stop_percent is None else command.stop_percent,
        api_app=options.get("api_app"),
    )


@router.post("")
async def start(request: Request, caller: AuthorizeCallerDep, context: ContextDep) -> RedirectResponse:
    """Start the batch of a file that was checked; it is checked once more."""
    form: dict[str, str] = request.state.form
    content = await asyncio.to_thread(
        unpack, form.get("content", ""), max_bytes=context.settings.max_batch_bytes
    )
    command = await _read(context, content, _options(request))
    async with context.database.transaction() as db:
        placed = await context.sessions.batches.request(
            db, command, caller=caller, idempotency_key=form.get("once", "")[:255] or None
        )
    text = "The batch is started." if placed.is_new else "This batch was started before."
    return redirect(request, f"{START_PATH}/{placed.batch_id}", text)


@live_router.get("/{batch_id}/live")
async def show_progress(
    request: Request, batch_id: str, caller: SessionsReadCallerDep, db: ReadDbDep
) -> Response:
    """Return the progress for an open page; at the batch's end the browser loads the whole page again."""
    view = await queries.view_batch(db, batch_id, caller=caller)
    if view.row.completed_at is not None:
        return Response(headers={"HX-Refresh": "true"})
    codes = await queries.count_codes(db, view.row)
    return render(request, "_batch_progress.html", view=view, row=view.row, codes=codes)


@router.get("/{batch_id}")
async def show_batch(
    request: Request, batch_id: str, caller: SessionsReadCallerDep, db: ReadDbDep
) -> Response:
    query = read_query(request, ResultListQuery)
    view = await queries.view_batch(db, batch_id, caller=caller)
    page = await queries.fetch_results(db, batch_id, PageRequest(query.page, query.page_size), caller=caller)
    rows = view.row.accepted + view.row.rejected
    return render(
        request,
        "batch.html",
        view=view,
        row=view.row,
        codes=await queries.count_codes(db, view.row),
        results=page.rows,
        page=query.page,
        pages=max(1, -(-rows // query.page_size)),
        given={"page_size": query.page_size} if "page_size" in query.model_fields_set else {},
    )


@router.get("/{batch_id}/results.csv")
async def download_results(batch_id: str, caller: SessionsReadCallerDep, db: ReadDbDep) -> Response:
    """All rows, which are no more than one request may bring."""
    batch = await queries.get_batch(db, batch_id, caller=caller)
    everything = PageRequest(size=max(1, batch.accepted + batch.rejected))
    results = (await queries.fetch_results(db, batch_id, everything, caller=caller)).rows
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(_COLUMNS)
    writer.writerows([neutralise(_cell(getattr(row, name))) for name in _COLUMNS] for row in results)
    return Response(
        lines.getvalue(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="batch-{batch.batch_id}.csv"'},
    )


@router.get("/{batch_id}/cancel")
async def confirm_cancel(
    request: Request, batch_id: str, caller: AuthorizeCallerDep, db: ReadDbDep
) -> Response:
    row = await queries.get_batch(db, batch_id, caller=caller)
    return render(
        request,
        "confirm.html",
        title=f"Cancel the batch of {row.accepted + row.rejected} rows by {row.requested_by}?",
        text=f"All sessions of the batch {row.batch_id} that have not ended are cancelled, and their browsers are "
        "stopped. Tokens that it has brought stay.",
        label="Cancel the batch",
        back=f"{START_PATH}/{row.batch_id}",
        fields={},
    )


@router.post("/{batch_id}/cancel")
async def cancel(
    request: Request, batch_id: str, caller: AuthorizeCallerDep, context: ContextDep
) -> RedirectResponse:
    async with context.database.transaction() as db:
        await context.sessions.batches.cancel(db, batch_id, caller=caller)
    await context.sessions.pacing.pace(batch_id)
    return redirect(request, f"{START_PATH}/{batch_id}", "The batch is cancelled.")


@router.post("/{batch_id}/retry")
async def retry(
    request: Request, batch_id: str, caller: AuthorizeCallerDep, context: ContextDep
) -> RedirectResponse:
    needs_attention = request.state.form.get("needs_attention") == "true"
    async with context.database.transaction() as db:
        count = await context.sessions.batches.retry(
            db, batch_id, needs_attention=needs_attention, caller=caller
        )
    text = "1 session of the batch starts" if count == 1 else f"{count} sessions of the batch start"
    return redirect(request, f"{START_PATH}/{batch_id}", f"{text} again.")


def _options(request: Request) -> dict[str, str]:
    """Return the options of the form that are given, as the API's query has them."""
    form: dict[str, str] = request.state.form
    return {name: value for name in _OPTIONS if (value := form.get(name, "").strip())}


async def _read(context: Context, content: bytes, options: dict[str, str]) -> BatchCommand:
    return await asyncio.to_thread(
        read_batch, _CSV, options, content, max_rows=context.settings.max_batch_rows
    )


def _accepted(results: list[RowResult]) -> list[RowResult]:
    return [row for row in results if row.error_code is None]


def _shown_limits(context: Context) -> dict[str, Any]:
    settings = context.settings
    return {
        "rows": settings.max_batch_rows,
        "size": f"{settings.max_batch_bytes / 2**20:g} MiB",
        "max_running": context.sessions.batches.limits.max_running,
        "stop_percent": context.sessions.batches.limits.stop_percent,
    }


def _cell(value: object) -> str:
    return "" if value is None else str(value)


router.routes.extend([*upload_router.routes, *live_router.routes])
