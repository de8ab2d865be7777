"""What a file may hold: each entry good, or refused with a sentence that quotes nothing of it."""

import io
from datetime import timedelta
from itertools import chain, islice, repeat
from typing import Any

import pytest

from app.models import utc_now
from app.services.shared.import_files import MAX_IMPORT_ROWS
from app.services.tokens.importer import COLUMNS, _validate, csv_entries, json_entries
from app.utils.exceptions import InvalidRequestException

APPS = ["AIOTT1", "AIOTT2"]
SECRET = "s3cret-token-value"


def checked(**values: Any) -> Any:
    defaults = {"account_id": "@Alice", "api_app": "AIOTT1", "access_token": SECRET}
    return _validate(1, {name: value for name, value in (defaults | values).items() if value != ...}, APPS)


def test_entry_needs_account_app_and_access_token():
    wanted = checked()
    assert (wanted.account_id, wanted.api_app, wanted.provider_user_id) == ("alice", "AIOTT1", "")
    tokens = wanted.tokens
    assert tokens.access_token.get_secret_value() == SECRET
    assert (tokens.refresh_token, tokens.oauth_token_secret, tokens.scopes) == (None, None, ())
    assert tokens.expires_in is None, "it does not expire"


def test_a_set_that_can_be_refreshed_and_has_no_expiry_is_due_at_once():
    assert checked(refresh_token="r").tokens.expires_in == 0


@pytest.mark.parametrize(("value", "seconds"), [("7200", 7200), (7200, 7200), (0, 0)])
def test_expiry_in_seconds_counts_from_now(value: str | int, seconds: int):
    assert checked(refresh_token="r", expires_in=value).tokens.expires_in == seconds


@pytest.mark.parametrize("hours", [5, -5])
def test_expiry_may_be_a_time(hours: int):
    at = (utc_now() + timedelta(hours=hours)).isoformat()
    seconds = checked(refresh_token="r", expires_at=at).tokens.expires_in
    assert abs(seconds - 3600 * hours) < 10


@pytest.mark.parametrize(
    "scopes",
    [
        "tweet.read  offline.access",
        ["tweet.read", "offline.access"],
        "tweet.read,offline.access",
        "tweet.read;offline.access",
        " tweet.read, offline.access; ",
    ],
)
def test_scopes_are_text_or_list(scopes: object):
    assert checked(scopes=scopes).tokens.scopes == ("tweet.read", "offline.access")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"account_id": ...}, "account_id: is missing"),
        ({"account_id": f"{SECRET} x"}, "account_id: must be an account's handle"),
        ({"account_id": 7}, "account_id: must be text"),
        ({"api_app": SECRET}, "api_app: none of OAUTH_APPS: AIOTT1, AIOTT2"),
        ({"api_app": [SECRET]}, "api_app: none of"),
        ({"access_token": ...}, "access_token: is missing"),
        ({"access_token": ""}, "access_token: must be a token"),
        ({"access_token": f"{SECRET} {SECRET}"}, "access_token: must be a token"),
        ({"access_token": [SECRET]}, "access_token: must be a token"),
        ({"refresh_token": f"{SECRET}\n"}, "refresh_token: must be a token"),
        ({"oauth_token_secret": f"{SECRET}é"}, "oauth_token_secret: must be a token"),
        ({"refresh_token": SECRET, "oauth_token_secret": SECRET}, "one or the other"),
        ({"expires_in": -1}, "expires_in: must be a whole number"),
        ({"expires_in": SECRET}, "expires_in: must be a whole number"),
        ({"expires_in": True}, "expires_in: must be a whole number"),
        ({"expires_in": "9" * 5000}, "more than ten years"),
        ({"expires_at": SECRET}, "expires_at: must be a time with its zone"),
        ({"expires_at": 1}, "expires_at: must be a time with its zone"),
        ({"expires_at": "2026-11-21T08:00:00"}, "expires_at: must be a time with its zone"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "more than ten years"),
        ({"expires_at": "2026-01-01T00:00:00Z", "expires_in": 1}, "give one of them"),
        ({"expires_at": "2026-01-01T00:00:00Z"}, "has expired, and there is no refresh_token"),
        ({"scopes": {SECRET: 1}}, "scopes: must be names"),
        ({"scopes": [f"{SECRET} {SECRET}"]}, "scopes: must be names"),
        ({"provider_user_id": SECRET * 40}, "provider_user_id: must be up to 255"),
        ({"provider_user_id": f"={SECRET}"}, "provider_user_id: must be up to 255"),
        ({SECRET: "x"}, "has more than the known columns"),
    ],
)
def test_a_bad_entry_is_refused_without_being_quoted(values: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence) as caught:
        checked(**values)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("values", [None, SECRET, [SECRET], 7])
def test_entry_that_is_no_object_is_refused(values: Any):
    with pytest.raises(ValueError, match="must be an object"):
        _validate(1, values, APPS)


@pytest.mark.parametrize("scopes", ["", " ", ",;", []])
def test_scopes_without_a_name_are_ignored(scopes: object):
    assert checked(scopes=scopes).tokens.scopes == ()


def test_cells_of_our_exports_are_restored_and_tokens_are_not():
    text = "account_id,api_app,access_token,provider_user_id\n'@a,'-app,'=token,'-1\n"
    ((_, values),) = csv_entries(io.StringIO(text))
    assert values == {
        "account_id": "@a",
        "api_app": "-app",
        "access_token": "'=token",
        "provider_user_id": "-1",
    }


def test_csv_entries_have_the_numbers_of_their_lines():
    text = "account_id,api_app,access_token,scopes\nalice,AIOTT1,t,\n\nbob,AIOTT1,u,a b\n"
    assert list(csv_entries(io.StringIO(text))) == [
        (2, {"account_id": "alice", "api_app": "AIOTT1", "access_token": "t"}),
        (4, {"account_id": "bob", "api_app": "AIOTT1", "access_token": "u", "scopes": "a b"}),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "missing: account_id, api_app, access_token"),
        (f"alice,AIOTT1,{SECRET}\n", "missing: account_id, api_app, access_token"),
        (f"account_id,api_app,access_token,{SECRET}\n", "1 of the first line's columns are unknown"),
        (f'account_id,api_app,access_token\nalice,AIOTT1,"{SECRET}"x\n', "cannot be read after line 1"),
    ],
)
def test_file_that_is_no_token_table_is_refused(text: str, sentence: str):
    with pytest.raises(InvalidRequestException, match=sentence) as caught:
        list(csv_entries(io.StringIO(text)))
    assert SECRET not in caught.value.message


def test_row_with_more_fields_than_the_header_is_refused():
    ((number, values),) = csv_entries(io.StringIO(f"{','.join(COLUMNS)}\n{'x,' * 20}{SECRET}\n"))
    with pytest.raises(ValueError, match="more than the known columns"):
        _validate(number, values, APPS)


def test_bytes_that_are_no_text_are_refused():
    lines = io.TextIOWrapper(
        io.BytesIO(b"account_id,api_app,access_token\nalice,AIOTT1,\xff\n"), encoding="utf-8"
    )
    with pytest.raises(InvalidRequestException, match="not UTF-8"):
        list(csv_entries(lines))


@pytest.mark.parametrize(
    "text", [f'{{"account_id": "{SECRET}"}}', f'["{SECRET}"', "[" * 100_000, "7", f"[{'9' * 5000}]"]
)
def test_file_that_is_no_json_list_is_refused(text: str):
    with pytest.raises(InvalidRequestException) as caught:
        json_entries(text.encode())
    assert SECRET not in caught.value.message


def test_json_entries_are_counted_from_1():
    assert json_entries(b'\xef\xbb\xbf[{"a": 1}, 2]') == [(1, {"a": 1}), (2, 2)]


def test_csv_entries_are_read_no_further_than_the_first_row_too_many():
    lines = chain(["account_id,api_app,access_token\n"], repeat("alice,AIOTT1,t\n"))
    entries = csv_entries(lines)
    assert next(islice(entries, MAX_IMPORT_ROWS - 1, None))[0] == MAX_IMPORT_ROWS + 1
    with pytest.raises(InvalidRequestException, match="200000 rows at most"):
        next(entries)


@pytest.mark.parametrize(
    "content",
    [b"[" + b"0," * MAX_IMPORT_ROWS + b"0]", b"[" + b"[]," * 4 * MAX_IMPORT_ROWS + b"0]"],
    ids=["rows", "brackets"],
)
def test_json_of_too_many_rows_is_refused(content: bytes):
    with pytest.raises(InvalidRequestException, match="200000 rows at most"):
        json_entries(content)


@pytest.mark.parametrize("bad", [f"{SECRET}{'x' * 200_000}", f"{SECRET}\ra"], ids=["long", "bare-return"])
def test_a_line_that_is_no_csv_is_named_and_not_quoted(bad: str):
    text = f"account_id,api_app,access_token\nalice,AIOTT1,t\n{bad},AIOTT1,t\n"
    with pytest.raises(InvalidRequestException, match="cannot be read after line 2") as caught:
        list(csv_entries(io.StringIO(text)))
    assert SECRET not in caught.value.message
