"""All error codes with what to do about them, for the links beside each error."""

from fastapi import APIRouter, Request, Response

from app.dashboard.page_route import SignedInRoute
from app.dashboard.pages import render

router = APIRouter(prefix="/ui", route_class=SignedInRoute, include_in_schema=False)


@router.get("/errors")
async def show_error_codes(request: Request) -> Response:
    return render(request, "error_codes.html")
