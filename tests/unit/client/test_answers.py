"""The client's classes against `openapi.json`, and what the folder needs."""

import ast
import json
import pickle
import re
import sys
from datetime import datetime
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import pytest

import app.client
from app.client import AsyncClient, AuthorizationFailed, Client, ServiceError, Token, answers
from app.client.exchange import _typed_fields, build_value

ROOT = Path(__file__).resolve().parents[3]
SCHEMAS = json.loads((ROOT / "openapi.json").read_text())["components"]["schemas"]
SCHEMA_OF = {
    answers.Attempt: "AttemptResponse",
    answers.Session: "SessionResponse",
    answers.Batch: "BatchResponse",
    answers.BatchRow: "RowResponse",
    answers.PlacedBatch: "PlacedBatchResponse",
    answers.Token: "TokenResponse",
    answers.Verified: "VerifiedResponse",
    answers.Event: "EventResponse",
    answers.Problem: "ProblemResponse",
    answers.Account: "AccountResponse",
    answers.ActionAccount: "ActionAccount",
    answers.AccountAction: "AccountActionResponse",
}
OWN = {answers.StreamedEvent: {"last_event_id"}, answers.WebhookEvent: {"webhook_id"}}
JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def fits(kind: Any, schema: dict[str, Any]) -> bool:
    """A field's type and its schema mean the same, null included."""
    options = schema.get("anyOf", [schema])
    nullable = {"type": "null"} in options
    kinds = [each for each in get_args(kind) if each is not NoneType] if nullable else [kind]
    if nullable != (NoneType in get_args(kind)) or len(kinds) != 1:
        return False
    ((kind,), (schema,)) = kinds, [each for each in options if each != {"type": "null"}]
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return kind is str if "enum" in SCHEMAS[name] else SCHEMA_OF.get(kind) == name
    if get_origin(kind) is tuple:
        return schema["type"] == "array" and fits(get_args(kind)[0], schema["items"])
    if kind is datetime:
        return schema.get("format") == "date-time"
    return schema["type"] == JSON_TYPES.get(kind, "object")


@pytest.mark.parametrize("kind", SCHEMA_OF, ids=lambda kind: kind.__name__)
def test_a_class_says_what_its_schema_says(kind: type):
    properties = SCHEMAS[SCHEMA_OF[kind]]["properties"]
    fields = _typed_fields(kind)
    assert fields.keys() == properties.keys()
    assert [name for name in fields if not fits(fields[name], properties[name])] == []


def test_every_class_is_compared():
    classes = {
        each
        for each in vars(answers).values()
        if isinstance(each, type) and each.__module__ == answers.__name__
    }
    assert classes == SCHEMA_OF.keys() | OWN.keys()
    for kind, added in OWN.items():
        assert _typed_fields(kind).keys() - _typed_fields(answers.Event).keys() == added


def test_new_field_is_ignored_and_missing_field_is_an_error():
    row = {"row": 1, "account_id": "anna", "api_app": "A", "existing": False, "of_tomorrow": 1}
    assert build_value(answers.BatchRow, row).error is None
    for broken in ({**row, "row": None}, {}, None, [row]):
        with pytest.raises(ServiceError, match="UNEXPECTED_ANSWER"):
            build_value(answers.BatchRow, broken)


def test_client_needs_httpx_and_nothing_else():
    needed = set()
    for file in (ROOT / "app" / "client").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                needed |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                needed.add(str(node.module).partition(".")[0])
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), "it reaches out of the folder"
    assert needed - sys.stdlib_module_names == {"httpx"}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_shows_where_it_speaks_to_and_no_secret(kind: Any):
    shown = repr(kind("http://user:password@127.0.0.1:8000/below", " secret-key\n"))
    assert shown == f"{kind.__name__}('http://127.0.0.1:8000')"
    for url, key in (("127.0.0.1:8000", "k"), ("ftp://host", "k"), ("http://", "k")):
        with pytest.raises(ValueError, match="URL must begin"):
            kind(url, key)
    for key in ("", "secret\u20ac", "secret\r\nX: y"):
        with pytest.raises(ValueError, match="the key") as caught:
            kind("http://127.0.0.1", key)
        assert "secret" not in str(caught.value)


def test_a_token_is_not_shown():
    token = Token(
        account_id="anna", api_app="A", provider_user_id="1", token_type="oauth1", access_token="secret-1",
        oauth_token_secret="secret-2", scopes=(), expires_at=None,
    )  # fmt: skip
    assert not re.search("secret-", repr(token))


def test_errors_can_be_handed_to_another_process():
    error = ServiceError("GONE", "It is gone", status=410, data={"problems": [{"field": "x"}]})
    same = pickle.loads(pickle.dumps(error))
    assert (str(same), same.status, same.problems) == ("GONE: It is gone", 410, [{"field": "x"}])
    assert set(app.client.__all__) >= {each.__name__ for each in ServiceError.__subclasses__()}
    assert issubclass(AuthorizationFailed, ServiceError)
