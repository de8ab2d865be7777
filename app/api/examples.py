"""Examples of bodies, made from their JSON schemas, so that none can differ from its schema."""

from collections.abc import Mapping
from typing import Any, Final

_MOMENT: Final = "2026-11-21T08:00:00Z"
_LATER: Final = "2026-11-21T08:00:09Z"
_SESSION_ID: Final = "0b8f3d52-6a0e-4c11-9d7e-1f2a3b4c5d6e"
_SCOPES: Final = ["tweet.read", "users.read", "offline.access"]

_BY_NAME: Final[Mapping[str, Any]] = {
    "account_id": "my_account",
    "account_patterns": "team_*",
    "actor": "billing",
    "api_app": "AIOTT1",
    "api_apps": "AIOTT1",
    "batch_id": "5d0c8a3e-2b71-4f6a-8c9d-7e6f5a4b3c2d",
    "created_by": "bootstrap",
    "event_type": "authorization.completed",
    "event_types": "authorization.*",
    "expires_at": "2026-11-21T10:00:00Z",
    "id": "9a1b2c3d-4e5f-4a6b-8c7d-0e1f2a3b4c5d",
    "key": "gla_0a1b2c3d_the-rest-of-the-key",
    "key_id": "3c2d1e0f-5b4a-4978-8f6e-5d4c3b2a1f0e",
    "limited_by": "app",
    "name": "billing",
    "page_size": 50,
    "prefix": "gla_0a1b2c3d",
    "profile_id": "66f1c2a4b7d8e9f0a1b2c3d4",
    "profile_name": "my_account",
    "provider_user_id": "2244994945",
    "rate_limit_per_minute": 600,
    "request_id": "6f1d1b0c7c5b4f6c9a52",
    "requested_by": "billing",
    "scopes": "authorize",
    "secret": "whsec_bm90LWEtc2VjcmV0LWJ1dC1hbi1leGFtcGxl",
    "session_id": _SESSION_ID,
    "sync_id": "7e6d5c4b-3a29-4817-9605-f4e3d2c1b0a9",
    "twitter_username": "my_account",
    "updated_at": _LATER,
    "url": "https://hooks.example.com/gologin",
    "username": "my_account",
    "version": "0.2.0",
}
"""Value of a field by its name, where its type fits."""
_TYPES: Final = {"string": str, "integer": int}

_TOKENS: Final = {"scopes": _SCOPES}
_BATCH: Final = {
    "accepted": 480,
    "rejected": 20,
    "max_running": 10,
    "stop_percent": 50,
    "stop_window": 20,
    "counts": {"pending": 380, "in_progress": 10, "completed": 88, "failed": 2},
    "eta_seconds": 342.0,
}
_DELIVERY: Final = {"id": 31, "event_id": 1207, "status": "delivered", "completed_at": _LATER}
_ANSWER: Final = {"milliseconds": 84, "status_code": 200, "answer": "ok"}
_KEY: Final = {"last_used_at": _LATER}
_SESSION: Final = {
    "status": "completed",
    "stage": "tokens_stored",
    "stage_seconds": {"profile_starting": 0.1, "consent_shown": 5.2, "tokens_stored": 8.4},
    "priority": 5,
    "awaits_person": False,
    "scopes": _SCOPES,
    "missing_scopes": [],
    "started_at": _MOMENT,
    "completed_at": _LATER,
}
BY_SCHEMA: Final[Mapping[str, Mapping[str, Any]]] = {
    "AccountResponse": _TOKENS | {"refreshed_at": _MOMENT, "next_refresh_at": _LATER, "failures": 0},
    "AlarmResponse": {"name": "too_many_waiting", "detail": "120 sessions wait, alarm above 100"},
    "AttemptResponse": {"stage": "tokens_stored", "seconds": 8.4},
    "BatchResponse": _BATCH,
    "BatchSummary": {name: _BATCH[name] for name in list(_BATCH)[:5]},
    "BreakerResponse": {"is_open": False},
    "CreatedWebhookResponse": {"pending": 0, "parked": 0},
    "DeliveryAttemptResponse": _ANSWER,
    "DeliveryDetailResponse": _DELIVERY,
    "DeliveryResponse": _DELIVERY,
    "EventResponse": {"id": 1207, "data": {"seconds": 8.4}},
    "EvidenceResponse": {
        "url": "https://x.com/i/oauth2/authorize",
        "title": "Log in to X",
        "test_ids": ["login-button"],
        "console": ["Failed to load resource: the server responded with a status of 403"],
        "screenshot": f"/authorize/{_SESSION_ID}/screenshot?attempt=1",
    },
    "AccountActionResponse": {"count": 120, "changed": 118, "dry_run": False, "batch_id": None},
    "AccountCountResponse": {"code": None, "count": 39_200},
    "GoLoginUsageResponse": {"requests_per_minute": 200, "reserved": 0, "wait_seconds": 0.0},
    "KeyResponse": _KEY,
    "LoopLagHealth": {"samples": 6000, "p50_ms": 0.2, "p99_ms": 1.4, "max_ms": 9.8},
    "MadeKeyResponse": _KEY | {"last_used_at": None},
    "PausedAppResponse": {
        "paused_at": _MOMENT,
        "reason": "INVALID_CLIENT: the provider refused the app",
        "limited_by": None,
    },
    "PlacedBatchResponse": _BATCH | {"existing": False},
    "ProfileResponse": {
        "is_linked": False,
        "in_use": False,
        "metadata": {"os": "win", "tags": []},
        "last_synced": _MOMENT,
    },
    "ReaderResponse": {"key": "billing", "told": 42, "position": "7310-1207"},
    "ReadinessResponse": {
        "reasons": [],
        "queue": True,
        "running_profiles": 3,
        "max_concurrent_profiles": 10,
        "gologin_breaker": {"is_open": False, "opened_at": None, "reason": None},
    },
    "ReplayedWebhookResponse": {"from_event_id": 1207},
    "ResumedAppResponse": {"was_limited": False},
    "RetriedBatchResponse": _BATCH | {"put_back": 22},
    "RowResponse": {"existing": False, "status": "pending"},
    "SessionResponse": _SESSION | {"existing": False},
    "SessionSummary": _SESSION,
    "StreamStatsResponse": {
        "max_readers": 200,
        "max_readers_per_key": 20,
        "kept": 500,
        "opened": 12,
        "refused": 0,
        "cut_off": 0,
        "told": 3400,
        "told_from_history": 120,
    },
    "SyncResponse": {
        "status": "completed",
        "pages": 40,
        "seen": 4000,
        "created": 3,
        "updated": 12,
        "returned": 0,
        "gone": 1,
        "conflicts": 0,
        "seconds": 8.6,
        "started_at": _MOMENT,
        "completed_at": _LATER,
    },
    "TestedWebhookResponse": _ANSWER,
    "TokenResponse": _TOKENS | {"access_token": "the-access-token"},
    "WebhookResponse": {"pending": 0, "parked": 0},
    "WorkerHealth": {"name": "sync", "last_success": _MOMENT, "consecutive_failures": 0, "next_run": _LATER},
}
"""Values of a model's fields where another one would mislead."""

_SCALARS: Final[Mapping[str, Any]] = {
    "boolean": True,
    "integer": 1,
    "number": 1.0,
    "string": "text",
    "null": None,
}


def build_example(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str = "") -> Any:
    """Return a value that `schema` describes. `schemas`: what it refers to; `name`: the field it belongs to."""
    if "$ref" in schema:
        return build_example(schemas[schema["$ref"].rpartition("/")[2]], schemas, name)
    if "examples" in schema or "example" in schema:
        return schema["example"] if "example" in schema else schema["examples"][0]
    if "default" in schema and name != "data":
        return schema["default"]
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    for choices in ("anyOf", "oneOf", "allOf"):
        if choices in schema:
            # The first choice; a field that may be null is null, unless its name says more.
            is_null = {"type": "null"} in schema[choices] and name not in ("", "data", *_BY_NAME)
            return None if is_null else build_example(schema[choices][0], schemas, name)
    if schema.get("type") == "object":
        fields = schema.get("properties", {})
        values = {field: build_example(each, schemas, field) for field, each in fields.items()}
        return {**values, **BY_SCHEMA.get(schema.get("title", ""), {})}
    if schema.get("type") == "array":
        return [build_example(schema.get("items", {}), schemas, name)]
    if isinstance(_BY_NAME.get(name), _TYPES.get(schema.get("type", ""), ())):
        return _BY_NAME[name]
    if schema.get("format") == "date-time":
        return _MOMENT
    return schema.get("minimum", _SCALARS.get(schema.get("type", "null")))
