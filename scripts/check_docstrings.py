"""Checks that no docstring begins with a fragment: `python -m scripts.check_docstrings`.

A docstring starts with what the thing is or does. A first word of this list begins a clause without a subject or verb.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDERS: Final = ("app", "sandbox", "scripts", "benchmarks")
FRAGMENTS: Final = frozenset(
    """After Also As At Because Before Beside Between Beyond By Else For From Here How In Its Like May Must None Not Of
    On Only So That There These They Those To Under Unless Until What Whatever When Where Whether Which While Who
    Whoever Whose Why With Within Without""".split()  # noqa: SIM905
)


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    problems = [
        f"{path.relative_to(root)}:{line}: a docstring begins with {word!r}: say first what the thing is or does"
        for folder in FOLDERS
        for path in sorted((root / folder).rglob("*.py"))
        for line, word in fragments(path.read_text(encoding="utf-8"))
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def fragments(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and first word of each docstring that begins with a fragment, those of attributes included."""
    for node in ast.walk(ast.parse(source)):
        for statement in _docstrings(node):
            text = ast.literal_eval(statement.value)
            word = text.split()[0].strip(",:;`'\"") if text.split() else ""
            if word in FRAGMENTS:
                yield statement.lineno, word


def _docstrings(node: ast.AST) -> Iterator[ast.Expr]:
    """Yield the strings of a body that stand at its beginning or after an assignment."""
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return
    is_documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    for number, statement in enumerate(body):
        is_string = isinstance(statement, ast.Expr) and isinstance(
            getattr(statement.value, "value", None), str
        )
        if is_string and (
            (number == 0 and is_documented)
            or (number and isinstance(body[number - 1], ast.Assign | ast.AnnAssign))
        ):
            yield statement


if __name__ == "__main__":
    sys.exit(main())
