"""Generated files: write them, or compare them with what the code says."""

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_or_check(files: Mapping[Path, str], arguments: list[str], *, command: str) -> int:
    """Write each file; with `--check` compare it instead. Return the exit code.

    Args:
        files: The expected text of each file.
        arguments: The command line after the program's name.
        command: What a person runs to write the files.
    """
    if arguments != ["--check"]:
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
        return 0
    outdated = [
        path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in outdated:
        print(f"{path.name} is out of date: run '{command}' and look at the difference", file=sys.stderr)
    return 1 if outdated else 0
