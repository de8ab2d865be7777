"""Line numbers of the keys of a TOML document: `tomllib` tells the line of a syntax error, of a value it does not."""

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str | int, ...]


def key_lines(text: str) -> dict[Path, int]:
    """Each table and key of a valid document by its path → its line, from 1."""
    lines: dict[Path, int] = {(): 1}
    table: Path = ()
    number, statement = 0, ""
    for current, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not statement:
            number = current
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:  # the value goes on in the next line
            continue
        if statement.lstrip().startswith("["):
            *parents, table = _paths(parsed)
            lines = dict.fromkeys(parents, number) | lines | {table: number}
        else:
            for path in _paths(parsed):
                lines.setdefault(table + path, number)
        statement = ""
    return lines


def find_line(lines: Mapping[Path, int], path: Path) -> int:
    """Return the line of the path, or of the nearest table above it: a key that is missing has none."""
    return next(lines[path[:length]] for length in range(len(path), -1, -1) if path[:length] in lines)


def _paths(value: Any) -> Iterator[Path]:
    """Yield the paths of all tables and keys in a parsed value; list items are left to the key that holds the list."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (key,)
            yield from ((key, *path) for path in _paths(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner)
