import tomllib

import pytest

from app.services.oauth.toml_lines import Path, find_line, key_lines

TEXT = '''# a comment
top = 1

[a.b]
plain = """
[not a table]
nor = "a key"
"""
list = [
  "one", # ]
  ["[two]"],
]
dotted."quoted key".last = 3
inline = { x = { y = 1 }, z = [ { w = 2 } ] }

[a]
after = 'its own'

[[c]]
x = 1

[[c]]
x = 2
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("top",), 2),
        (("a", "b"), 4),
        (("a", "b", "plain"), 5),
        (("a", "b", "list"), 9),
        (("a", "b", "list", 1), 9),
        (("a", "b", "dotted"), 13),
        (("a", "b", "dotted", "quoted key", "last"), 13),
        (("a", "b", "inline", "x", "y"), 14),
        (("a", "b", "inline", "z", "w"), 14),
        (("a",), 16),
        (("a", "after"), 17),
        (("c",), 22),
        (("a", "b", "missing"), 4),
        (("missing", "wholly"), 1),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_key_lines_gives_the_line_of_each_key(path: Path, line: int, newline: str):
    text = TEXT.replace("\n", newline)
    tomllib.loads(text)
    assert find_line(key_lines(text), path) == line


def test_text_that_only_looks_like_a_key_is_none():
    lines = key_lines(TEXT)
    assert ("a", "b", "nor") not in lines
    assert ("not a table",) not in lines


@pytest.mark.parametrize("text", ["", "\n\n", "# only this", "x = 1"])
def test_short_documents_are_read(text: str):
    assert key_lines(text)[()] == 1
