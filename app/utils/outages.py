"""Classification of database errors: an outage is waited for, an error of the statement is not."""

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_FULL: Final = "its disk is full; make room there"
_FILE: Final = "its file cannot be read or written; look at its disk and permissions"
TOO_MANY_CONNECTIONS: Final = "too many connections: the server's max_connections are in use"
_LIMIT_REACHED: Final = "a limit of the server's configuration is reached"
_NOT_YET: Final = "it starts or stops, and takes no connections now"
CONNECTION_REFUSALS: Final = (TOO_MANY_CONNECTIONS, _LIMIT_REACHED, _NOT_YET)
"""Reasons for which a server that runs refuses a connection."""
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
_REFUSALS: Final = {"53300": TOO_MANY_CONNECTIONS, "53400": _LIMIT_REACHED, "57P03": _NOT_YET}
_REFUSAL_WORDS: Final = {
    "too many clients": TOO_MANY_CONNECTIONS,
    "too many connections": TOO_MANY_CONNECTIONS,
    "remaining connection slots": TOO_MANY_CONNECTIONS,
    "no more connections allowed": TOO_MANY_CONNECTIONS,  # PgBouncer's max_client_conn
    "query_wait_timeout": TOO_MANY_CONNECTIONS,  # PgBouncer had no server connection for it
    "the database system is starting up": _NOT_YET,
    "the database system is shutting down": _NOT_YET,
    "the database system is not yet accepting connections": _NOT_YET,
}
"""Words of a refusal, which comes before there is a connection, and without its state."""
_POSTGRESQL_COLLISIONS: Final = ("40001", "40P01", "55P03")
"""Serialization failure, deadlock, lock that another transaction holds."""
COLLISION: Final = "two changes stood in each other's way; try again"


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
    if state in _POSTGRESQL_COLLISIONS:
        return COLLISION
    # Other errors quote values, which may be such words. 08P01 is the state of PgBouncer's own errors.
    words = str(error.orig) if state in (None, "08P01") else ""
    refusals = (reason for phrase, reason in _REFUSAL_WORDS.items() if phrase in words)
    if (refusal := _REFUSALS.get(state or "") or next(refusals, None)) is not None:
        return refusal
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return "it does not answer"
    return None
