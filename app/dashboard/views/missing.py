"""Addresses below /ui that lead nowhere."""

from fastapi import APIRouter, Request, Response

from app.dashboard.page_route import SignedInRoute
from app.utils.exceptions import RouteNotFoundException

router = APIRouter(prefix="/ui", route_class=SignedInRoute, include_in_schema=False)


@router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def miss(_request: Request) -> Response:
    raise RouteNotFoundException("There is no such page")
