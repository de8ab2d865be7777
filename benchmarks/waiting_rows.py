"""Rows of PostgreSQL, made by the server itself: profiles of accounts, and sessions that wait."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import Database

_NUMBERS: Final = "FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n"
_PROFILES: Final = f"""
INSERT INTO profiles (
    profile_id, profile_name, twitter_username, is_active, is_linked, in_use, metadata, last_synced, created_at,
    updated_at
)
SELECT 'p' || n, 'account_' || n, 'account_' || n, true, false, false, '{{}}', now(), now(), now() {_NUMBERS}
"""
_SESSIONS: Final = f"""
INSERT INTO authorization_sessions (
    session_id, profile_id, twitter_username, api_app, scopes, missing_scopes, status, stage_times, stage_timeouts,
    priority, queue_rank, is_forced, consent, awaits_person, is_held, attempts, attempts_allowed, request_id,
    requested_by, requested_by_kind, created_at, updated_at, expires_at
)
SELECT gen_random_uuid(), 'p' || n, 'waiting_' || n, 'AIOTT1', '[]', '[]', 'pending', '{{}}', '{{}}', 5, n, false,
    'automatic', false, false, 0, 3, 'r' || n, 'tests', 'key', now(), now(), now() + interval '1 day' {_NUMBERS}
"""


async def add_profiles(db: AsyncSession, first: int, last: int) -> None:
    """Add the profiles of the accounts `account_<first>` to `account_<last>`."""
    await db.execute(text(_PROFILES), {"first": first, "last": last})


async def add_waiting(db: AsyncSession, first: int, last: int) -> None:
    """Add sessions of other accounts, that wait ahead of all that come."""
    await db.execute(text(_SESSIONS), {"first": first, "last": last})


async def analyze(database: Database) -> None:
    """Let the planner know the tables as they are."""
    async with await database.open_connection("analyze") as connection:
        await connection.execute("VACUUM ANALYZE")
