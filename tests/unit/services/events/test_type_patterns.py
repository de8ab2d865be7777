"""Types of events: what is recorded, and how filters name it."""

import ast
from pathlib import Path

import pytest

from app.models import EventType, SessionStatus
from app.services.events.type_patterns import find_problem

APP = Path(__file__).parents[4] / "app"


def test_every_type_is_recorded_somewhere():
    ends = {f"authorization.{status}" for status in SessionStatus if status is not SessionStatus.IN_PROGRESS}
    named = {
        node.attr
        for folder in ("services", "api")
        for path in (APP / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "EventType"
    }
    assert named | {EventType(end).name for end in ends} == set(EventType.__members__)


def test_descriptions_are_sentences():
    for each in EventType:
        assert each.description == each.description[:1].upper() + each.description[1:].rstrip(".") + ".", each
        assert each.name == each.value.upper().replace(".", "_")


@pytest.mark.parametrize("pattern", ["*", "token.*", "token.read", "*.paused", "authorization.re*"])
def test_pattern_that_matches_a_type_is_accepted(pattern: str):
    assert find_problem(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("token.rea", "token.read"),
        ("authorization.complete", "authorization.completed"),
        ("nothing.like.it", "openapi.json"),
        ("tokens.*", "matches no event type"),
    ],
)
def test_unknown_type_is_refused_with_a_hint(pattern: str, hint: str):
    assert hint in (find_problem(pattern) or "")
