"""One key of a request, from either header."""

import pytest
from starlette.datastructures import Headers

from app.api.http.presented_key import presented_key
from app.utils.exceptions import MalformedRequestException

KEY, OTHER = "gla_01234567_mine", "gla_89abcdef_other"


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({"X-API-Key": KEY}, KEY),
        ({"x-api-key": KEY}, KEY),
        ({"X-API-Key": ""}, None),
        ({"Authorization": f"Bearer {KEY}"}, KEY),
        ({"authorization": f"bearer {KEY}"}, KEY),
        ({"Authorization": f"BEARER   {KEY} "}, KEY),
        ({"Authorization": "Bearer"}, None),
        ({"Authorization": "Bearer  "}, None),
        ({"Authorization": KEY}, None),
        ({"Authorization": f"Bearer\t{KEY}"}, None),
        ({"Authorization": f"Bearer:{KEY}"}, None),
        ({"Authorization": f"Basic {KEY}"}, None),
        ({"Authorization": f"Bearers {KEY}"}, None),
        ({"Authorization": f"Bearer {KEY}, Bearer {OTHER}"}, f"{KEY}, Bearer {OTHER}"),
        ({"Authorization": f"Bearer {KEY}", "X-API-Key": KEY}, KEY),
        ({"Authorization": f"Bearer {KEY}", "X-API-Key": ""}, KEY),
        ({"Authorization": "Bearer", "X-API-Key": KEY}, KEY),
        ({"Authorization": f"Basic {OTHER}", "X-API-Key": KEY}, KEY),
    ],
)
def test_key_is_read_from_either_header(headers: dict[str, str], key: str | None):
    assert presented_key(Headers(headers)) == key


def test_two_different_keys_are_refused_and_not_named():
    with pytest.raises(MalformedRequestException, match="two different keys") as refusal:
        presented_key(Headers({"Authorization": f"Bearer {OTHER}", "X-API-Key": KEY}))
    assert not {KEY, OTHER} & set(str(refusal.value).split())
