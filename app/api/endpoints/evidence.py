"""Evidence of failed attempts."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.dependencies import EvidenceCallerDep, KeyFirstRoute, ReadDbDep
from app.api.errors import errors
from app.api.responses import APIResponse, success_response
from app.api.schemas.evidence import EvidenceResponse
from app.services.authorizations import evidence
from app.utils.exceptions import ScreenshotNotFoundException, SessionNotFoundException

router = APIRouter(prefix="/authorize", tags=["evidence"], route_class=KeyFirstRoute)


@router.get(
    "/{session_id}/evidence",
    operation_id="getAuthorizationEvidence",
    responses=errors(SessionNotFoundException),
)
async def get_evidence(
    session_id: str, caller: EvidenceCallerDep, db: ReadDbDep
) -> APIResponse[list[EvidenceResponse]]:
    """Return the evidence of each attempt that failed in the browser: address, title, test ids, console errors."""
    rows = await evidence.fetch_all(db, session_id, access=caller.access)
    return success_response([EvidenceResponse.from_row(row, has_screenshot=has_one) for row, has_one in rows])


@router.get(
    "/{session_id}/screenshot",
    operation_id="getAuthorizationScreenshot",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "The page at the attempt's end"},
        **errors(SessionNotFoundException, ScreenshotNotFoundException),
    },
)
async def get_screenshot(
    session_id: str,
    caller: EvidenceCallerDep,
    db: ReadDbDep,
    attempt: Annotated[
        int | None,
        Query(
            ge=1,
            le=1_000_000,
            description="Number of the attempt; by default the last one that has a screenshot",
        ),
    ] = None,
) -> Response:
    """Return the page as a JPEG, as it was when an attempt failed. The content of input fields is masked."""
    number, image = await evidence.screenshot(db, session_id, attempt=attempt, access=caller.access)
    name = f'inline; filename="{session_id}-attempt-{number}.jpg"'
    return Response(image, media_type="image/jpeg", headers={"Content-Disposition": name})
