"""The pager of the operators' lists: the noun agrees with the total."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.dashboard.pages import Pages
from tests.fixtures.settings import MakeSettings


@pytest.mark.parametrize(
    ("total", "is_exact", "shown"),
    [
        (1, True, "1 delivery, page 1"),
        (2, True, "2 deliveries, page 1"),
        (0, True, "0 deliveries, page 1"),
        (1, False, "1+ deliveries, page 1"),
    ],
)
def test_noun_agrees_with_the_total(make_settings: MakeSettings, total: int, is_exact: bool, shown: str):
    template = Pages(make_settings())._templates.get_template("macros.html")
    macros: Any = template.make_module({"here": "/ui/webhooks/1"})
    answer = SimpleNamespace(data=["a row"], total=total, total_is_exact=is_exact, page=1, next_cursor=None)
    assert shown in macros.pager(answer, {}, "delivery", "deliveries")
