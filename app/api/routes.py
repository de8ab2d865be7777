"""The API: one router file per resource."""

from fastapi import APIRouter

from app.api import authorize, health

router = APIRouter()
router.include_router(health.router)
router.include_router(authorize.router)
