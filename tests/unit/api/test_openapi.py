"""The API's description: complete, and checked in."""

import copy
import functools
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from app.api.errors import CODES
from app.api.examples import BY_SCHEMA
from app.api.http.rate_limit import QUOTA_HEADERS
from app.config import Settings
from app.main import create_app
from app.models import EventType
from app.utils.exceptions import ErrorCode
from scripts import openapi
from tests.fixtures.routes import ROUTES

OPEN = ("/health", "/health/ready")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings.model_construct()).openapi()


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Operations by method and path; each response is resolved and has its codes."""
    return {
        f"{method.upper()} {path}": operation | {"responses": resolved(document, operation)}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def resolved(document: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    shared = document["components"]["responses"]
    codes = operation[CODES]
    return {
        status: shared[response["$ref"].rpartition("/")[2]] | {CODES: codes[status]}
        if "$ref" in response
        else response
        for status, response in operation["responses"].items()
    }


def undescribed(document: dict[str, Any]) -> set[str]:
    """Return what an operation lacks: a summary, or an example that fits its schema for a body or an answer."""
    lacking: set[str] = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"
            if not operation.get("summary"):
                lacking.add(f"{name} summary")
            answers = resolved(document, operation)
            bodies = {"request": operation["requestBody"]} if "requestBody" in operation else {}
            bodies |= {status: each for status, each in answers.items() if status != "204"}
            lacking |= {
                f"{name} {body} {media_type}"
                for body, each in bodies.items()
                for media_type, media in each["content"].items()
                if not has_fitting_example(document, media)
            }
    return lacking


def has_fitting_example(document: dict[str, Any], media: dict[str, Any]) -> bool:
    shared = document["components"]["examples"]
    examples = [
        shared[each["$ref"].rpartition("/")[2]]["value"] for each in media.get("examples", {}).values()
    ]
    if "example" in media:
        examples.append(media["example"])
    schema = media.get("schema", {}) | {"components": document["components"]}
    return bool(examples) and all(each and jsonschema_rs.is_valid(schema, each) for each in examples)


def test_every_operation_has_a_summary_and_examples_that_fit_their_schemas(document: dict[str, Any]):
    assert undescribed(document) == set()


def test_operation_without_summary_or_fitting_examples_is_found(document: dict[str, Any]):
    broken = copy.deepcopy(document)
    operation = broken["paths"]["/authorize"]["post"]
    del operation["summary"]
    operation["requestBody"]["content"]["application/json"]["example"] = {"account_id": 1}
    del operation["responses"]["202"]["content"]["application/json"]["examples"]
    name = "POST /authorize"
    assert undescribed(broken) == {
        f"{name} summary",
        f"{name} request application/json",
        f"{name} 202 application/json",
    }


def test_values_of_examples_are_fields_of_schemas(document: dict[str, Any]):
    schemas = document["components"]["schemas"]
    for name, values in BY_SCHEMA.items():
        assert values.keys() <= schemas[name]["properties"].keys(), name


def test_refusals_are_shared_and_enums_described(document: dict[str, Any]):
    for methods in document["paths"].values():
        for operation in methods.values():
            refs = {status for status, each in operation["responses"].items() if "$ref" in each}
            assert refs == operation[CODES].keys() >= {"422"}
    for enum in (EventType, ErrorCode):
        schema = document["components"]["schemas"][enum.__name__]
        assert schema["enum"] == list(enum)
        assert schema["x-enum-descriptions"] == [each.description for each in enum]


def test_exceptions_use_codes_of_the_enum(document: dict[str, Any]):
    assert set(document[CODES]) <= set(ErrorCode)


def test_checked_in_file_is_what_the_code_says(capsys: pytest.CaptureFixture[str]):
    assert openapi.main(["--check"]) == 0, capsys.readouterr().err


def test_a_difference_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openapi, "PATH", tmp_path / "openapi.json")
    monkeypatch.setattr(openapi, "described", functools.cache(openapi.described))
    assert openapi.main(["--check"]) == 1
    assert openapi.main([]) == 0
    assert openapi.main(["--check"]) == 0
    openapi.PATH.write_text(openapi.PATH.read_text().replace("listAuthorizations", "listSessions"))
    assert openapi.main(["--check"]) == 1


def test_every_operation_is_ready_for_a_generator(document: dict[str, Any], operations: dict[str, Any]):
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z][A-Za-z]+", each) for each in ids)
    described = {tag["name"] for tag in document["tags"]}
    for name, operation in operations.items():
        assert operation["description"], name
        assert set(operation["tags"]) <= described, name
        assert bool(operation.get("security")) == (name.removeprefix("GET ") not in OPEN), name
        for parameter in operation.get("parameters", []):
            says_what_it_is = "description" in str(parameter) or "enum" in str(parameter["schema"])
            assert parameter["in"] == "path" or says_what_it_is, (name, parameter["name"])


def test_either_header_is_offered_with_the_scope_of_each_route(
    document: dict[str, Any], operations: dict[str, Any]
):
    schemes = document["components"]["securitySchemes"]
    assert (schemes["APIKeyHeader"]["in"], schemes["APIKeyHeader"]["name"]) == ("header", "X-API-Key")
    assert (schemes["HTTPBearer"]["type"], schemes["HTTPBearer"]["scheme"]) == ("http", "bearer")
    described = {
        each["operationId"]: each["security"] for each in operations.values() if each.get("security")
    }
    assert described == {
        name: [{"APIKeyHeader": [access.scope]}, {"HTTPBearer": [access.scope]}]
        for name, access in ROUTES.items()
    } | {"actOnAccounts": [{"APIKeyHeader": []}, {"HTTPBearer": []}]}  # the scope depends on the action


def test_every_refusal_names_its_codes_and_is_one_envelope(operations: dict[str, Any]):
    for name, operation in operations.items():
        refusals = {status: each for status, each in operation["responses"].items() if status >= "400"}
        for status, refusal in refusals.items():
            if (name, status) == ("GET /health/ready", "503"):
                continue
            schema = refusal["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorResponse"}, name
            assert refusal[CODES], name
        if "requestBody" in operation:
            assert {"413", "415", "422"} <= refusals.keys(), name


def test_every_success_says_what_it_holds(operations: dict[str, dict[str, Any]]):
    for name, operation in operations.items():
        for status, answer in operation["responses"].items():
            assert status >= "400" or status == "204" or answer["content"], (name, status)


def test_answers_name_their_headers(document: dict[str, Any], operations: dict[str, Any]):
    for name, operation in operations.items():
        for status, answer in operation["responses"].items():
            headers = set(answer["headers"])
            has_quota = "security" in operation and (status < "400" or status == "429")
            assert (headers >= set(QUOTA_HEADERS)) == has_quota, (name, status)
            assert ("Retry-After" in headers) == (status in {"409", "429", "502", "503", "504"})
            assert ("WWW-Authenticate" in headers) == (status == "401")
            assert {each["$ref"].rpartition("/")[2] for each in answer["headers"].values()} <= set(
                document["components"]["headers"]
            )
    for name in ("POST /authorize", "POST /authorize/batch"):
        assert all(
            "Location" in operations[name]["responses"][status]["headers"] for status in ("200", "202")
        )


def test_routes_refuse_only_with_codes_that_exist(document: dict[str, Any], operations: dict[str, Any]):
    for name, operation in operations.items():
        for status, response in operation["responses"].items():
            for code in response.get(CODES, ()):
                assert str(document[CODES][code]["status"]) == status, (name, code)
