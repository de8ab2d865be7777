"""Fingerprints of requests: two that say the same have the same, in the next release, too."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from app.cli.batch_watch import hash_source
from app.models import ConsentMode
from app.services.authorizations.idempotency import fingerprint
from app.services.authorizations.requests import AuthorizationCommand
from app.services.batches.creation import BatchCommand
from app.services.batches.rows import InputRow

ORDER = AuthorizationCommand("alice", "AIOTT1", stage_timeouts={"a": 1.0, "b": 2.0})
BATCH = BatchCommand([InputRow(1, "alice", "AIOTT1"), InputRow(2, "=x", "AIOTT1", error="first words")])
AT = datetime(2026, 11, 21, 8, tzinfo=UTC)


@dataclass(frozen=True)
class LaterOrder(AuthorizationCommand):
    colour: str | None = None


@dataclass(frozen=True)
class LaterBatch(BatchCommand):
    colours: tuple[str, ...] = ()


@dataclass(frozen=True)
class LaterRow(InputRow):
    colour: str = "red"


def test_a_new_optional_field_changes_no_fingerprint():
    assert fingerprint(LaterOrder(**vars(ORDER))) == fingerprint(ORDER)
    rows = [LaterRow(**vars(row)) for row in BATCH.rows]
    assert fingerprint(LaterBatch(**vars(replace(BATCH, rows=rows)))) == fingerprint(BATCH)
    assert fingerprint(LaterOrder(**vars(ORDER), colour="red")) != fingerprint(ORDER)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ORDER, replace(ORDER, stage_timeouts={"b": 2.0, "a": 1.0})),
        (
            replace(ORDER, not_before=AT),
            replace(ORDER, not_before=AT.astimezone(timezone(timedelta(hours=2)))),
        ),
        (BATCH, replace(BATCH, rows=(BATCH.rows[0], replace(BATCH.rows[1], error="other words")))),
    ],
)
def test_requests_that_say_the_same_have_one_fingerprint(one: Any, other: Any):
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    "changes",
    [
        {"account_id": "bob"},
        {"priority": 6},
        {"force": True},
        {"not_before": AT},
        {"expires_at": AT},
        {"timeout_seconds": 5.0},
        {"consent": ConsentMode.ATTENDED},
        {"stage_timeouts": {}},
    ],
)
def test_every_field_changes_the_fingerprint(changes: dict[str, Any]):
    assert fingerprint(replace(ORDER, **changes)) != fingerprint(ORDER)


def test_a_fingerprint_fits_its_column_and_stays_what_it_is():
    assert fingerprint(AuthorizationCommand("alice", "AIOTT1")) == (
        "2:" + hashlib.sha256(b'{"account_id":"alice","api_app":"AIOTT1"}').hexdigest()[:62]
    )


def test_the_key_of_a_file_stays_when_an_option_is_added():
    given = {"api_app": "AIOTT1", "max_running": None, "stop_percent": 5}
    first = hashlib.sha256(b"file('AIOTT1', None, 5)").hexdigest()
    assert hash_source(b"file", given) == hash_source(b"file", {"colour": None, **given}) == first
    assert hash_source(b"file", {"colour": "red", **given}) != first
