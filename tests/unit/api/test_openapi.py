"""The API's description: complete, and checked in."""

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from app.api.errors import CODES
from app.api.http.rate_limit import QUOTA_HEADERS
from app.config import Settings
from app.main import create_app
from app.models import EventType
from app.utils.exceptions import ErrorCode
from scripts import openapi

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


def test_every_operation_has_examples_that_fit_their_schemas(
    document: dict[str, Any], operations: dict[str, dict[str, Any]]
):
    for name, operation in operations.items():
        assert operation["summary"], name
        bodies = list(operation.get("requestBody", {}).get("content", {}).values())
        answers = [each for status, each in operation["responses"].items() if status != "204"]
        bodies += [media for each in answers for media in each["content"].values()]
        for media in bodies:
            example = media.get("example")
            for each in media.get("examples", {}).values():
                example = document["components"]["examples"][each["$ref"].rpartition("/")[2]]["value"]
            assert example, name
            if "schema" in media:
                schema = media["schema"] | {"components": document["components"]}
                jsonschema_rs.validate(schema, example)


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


def test_the_checked_in_one_is_what_the_code_says(capsys: pytest.CaptureFixture[str]):
    assert openapi.main(["--check"]) == 0, capsys.readouterr().err


def test_a_difference_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(openapi, "PATH", tmp_path / "openapi.json")
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
