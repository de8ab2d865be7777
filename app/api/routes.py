"""The API: one router file per resource."""

from fastapi import APIRouter

from app.api.endpoints import (
    accounts,
    apps,
    authorize,
    batches,
    events,
    evidence,
    gologin,
    health,
    keys,
    profiles,
    webhooks,
)

router = APIRouter()
router.include_router(health.router)
router.include_router(batches.router)  # before the sessions: `batch` is no session's id
router.include_router(authorize.router)
router.include_router(evidence.router)
router.include_router(profiles.router)
router.include_router(gologin.router)
router.include_router(apps.router)
router.include_router(accounts.router)
router.include_router(keys.router)
router.include_router(events.router)
router.include_router(webhooks.router)
