"""Responses of evidence."""

from datetime import datetime

from pydantic import BaseModel, Field

from app.models import Evidence


class EvidenceResponse(BaseModel):
    """Evidence of one attempt; possible secrets are masked."""

    attempt: int
    taken_at: datetime
    url: str = Field(description="Address of the page: scheme, host and path")
    title: str
    test_ids: list[str] = Field(description="`data-testid` of the visible elements")
    console: list[str] = Field(description="The last errors of the page's console")
    screenshot: str | None = Field(description="Path of the screenshot; null when none could be taken")

    @classmethod
    def from_row(cls, row: Evidence, *, has_screenshot: bool) -> "EvidenceResponse":
        link = f"/authorize/{row.session_id}/screenshot?attempt={row.attempt}"
        return cls(
            attempt=row.attempt,
            taken_at=row.taken_at,
            url=row.url,
            title=row.title,
            test_ids=row.test_ids,
            console=row.console,
            screenshot=link if has_screenshot else None,
        )
