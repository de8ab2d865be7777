"""Print a reference as a Markdown table: `python -m scripts.reference events|errors`."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from app.models import EventType
from app.utils.exceptions import AppException, ErrorCode


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in TABLES:
        print(f"usage: python -m scripts.reference {'|'.join(TABLES)}", file=sys.stderr)
        return 2
    print(TABLES[arguments[0]]())
    return 0


def events_table() -> str:
    """Return a table of every type of events, in the order of the enum."""
    return _table(("Type", "What happened"), ((f"`{each}`", each.description) for each in EventType))


def errors_table() -> str:
    """Return a table of every error code, sorted by code.

    A code without an HTTP status occurs in rows only: sessions, attempts, syncs and accounts.
    """
    classes = _exceptions_by_code()
    rows = (
        (f"`{code}`", *_status_and_retry(classes.get(code)), code.description) for code in sorted(ErrorCode)
    )
    return _table(("Code", "HTTP status", "Retry", "Meaning"), rows)


def _exceptions_by_code() -> dict[ErrorCode, type[AppException]]:
    known: list[type[AppException]] = [AppException]
    for each in known:  # grows meanwhile
        known += each.__subclasses__()
    return {each.error_code: each for each in known if "error_code" in vars(each)}


def _status_and_retry(exception: type[AppException] | None) -> tuple[str, str]:
    if exception is None:
        return "", ""
    return str(exception.status_code), "yes" if exception.retryable else "no"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


TABLES: Final[Mapping[str, Callable[[], str]]] = {"events": events_table, "errors": errors_table}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
