"""The events reference lists the types that the code records."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from app.models import SessionStatus

ROOT = Path(__file__).parents[2]
TYPE = re.compile(r"[a-z_]+\.[a-z_]+")
NO_EVENT = {"webhook.test"}
"""What is sent for a trial is never recorded."""


def test_every_type_of_event_is_listed_and_no_other():
    ends = {f"authorization.{status}" for status in SessionStatus if status != SessionStatus.IN_PROGRESS}
    assert set(listed_types()) == set(recorded_types()) - NO_EVENT | ends


def recorded_types() -> Iterator[str]:
    """Words like a type's in the code, but those of the log."""
    for folder in ("services", "api", "cli"):
        for path in (ROOT / "app" / folder).rglob("*.py"):
            if path.name == "provider.py":  # fields and scopes look like types
                continue
            tree = ast.parse(path.read_text())
            logged = {id(word) for call in ast.walk(tree) if is_of_log(call) for word in ast.walk(call)}
            for word in ast.walk(tree):
                if isinstance(word, ast.Constant) and id(word) not in logged and is_type(word.value):
                    yield word.value


def is_of_log(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.")


def is_type(value: object) -> bool:
    return isinstance(value, str) and TYPE.fullmatch(value) is not None


def listed_types() -> Iterator[str]:
    """Of the table, where the first of a row's types has its whole name."""
    table = (
        (ROOT / "docs" / "events-reference.md")
        .read_text()
        .partition("| types | what happened |")[2]
        .partition("\n\n")[0]
    )
    for row in table.splitlines():
        area = ""
        for name in re.findall(r"`([a-z_.]+)`", row):
            area = name.partition(".")[0] or area
            yield name if not name.startswith(".") else area + name
