"""The check of docstrings finds fragments, and nothing else."""

import pytest

from scripts.check_docstrings import fragments


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""What it is."""', [(1, "What")]),
        ('def f():\n    """Whether it is so."""', [(2, "Whether")]),
        ('class A:\n    """Return it."""\n    b: int\n    """Of A."""', [(4, "Of")]),
        ('X = 1\n"""None: it is unset."""', [(2, "None")]),
        ('X = 1\n"""Ceiling of what is read."""', []),
        ('def f():\n    return "What it is."', []),
        ('if x:\n    """What it is."""', []),
        ('""""""', []),
    ],
)
def test_docstring_that_begins_with_a_fragment_is_found(source: str, expected: list[tuple[int, str]]):
    assert list(fragments(source)) == expected
