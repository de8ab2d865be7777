"""Classification of database errors: an outage is waited for, an error of the statement is not."""

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_FULL: Final = "its disk is full; make room there"
_FILE: Final = "its file cannot be read or written; look at its disk and permissions"
TOO_MANY_CONNECTIONS: Final = "too many connections: the server's max_connections are in use"
READ_ONLY: Final = "it takes no writes now"
WRITE_OUTAGES: Final = (_FULL, _FILE)
"""Reads may go on all the same."""
_SQLITE_OUTAGES: Final = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked",
    **dict.fromkeys(
        (
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_NOTADB,
        ),
        _FILE,
    ),
}
_POSTGRESQL_DISK_FULL: Final = "53100"
_POSTGRESQL_READ_ONLY: Final = "25006"
_POSTGRESQL_TOO_MANY: Final = "53300"
_TOO_MANY_WORDS: Final = ("too many clients", "too many connections", "remaining connection slots")
"""Words of the server's refusal, which comes before there is a connection, and without its state."""
_POSTGRESQL_COLLISIONS: Final = ("40001", "40P01", "55P03")


def unavailable_reason(error: SQLAlchemyError) -> str | None:
    """Return why the database cannot be used now; None when the error is about the statement."""
    if isinstance(error, PoolTimeoutError):
        return "all its connections are busy"
    if not isinstance(error, DBAPIError):
        return None
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE_OUTAGES.get(code & 0xFF)  # the rest is the extended code
    state = getattr(error.orig, "sqlstate", None)
    if state == _POSTGRESQL_DISK_FULL:
        return _FULL
    if state == _POSTGRESQL_READ_ONLY:
        return READ_ONLY
    words = str(error.orig)
    if state == _POSTGRESQL_TOO_MANY or any(phrase in words for phrase in _TOO_MANY_WORDS):
        return TOO_MANY_CONNECTIONS
    if state in _POSTGRESQL_COLLISIONS:
        return "two changes stood in each other's way; try again"
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return "it does not answer"
    return None
