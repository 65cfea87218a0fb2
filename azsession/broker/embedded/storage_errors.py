"""The errors of SQLite as errors that callers of the embedded broker get. `GroupCommit` calls `failure_of`."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from ...errors import ProviderError
from ...protocol.error_codes import SERVER_BUSY


def failure_of(error: Exception, connection: sqlite3.Connection) -> Exception:
    """Return the error that the callers of a transaction get. It was rolled back.

    If the disk is full, copy the log into the file, so that later transactions use the space of the log again. SQLite itself
    does so only after a commit.
    """
    if not isinstance(error, sqlite3.Error):
        return error
    if "full" in str(error).lower():
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    return _storage_error(error)


def _storage_error(error: sqlite3.Error) -> ProviderError:
    """Return the error for a failure of SQLite. The transaction was rolled back."""
    text = str(error).lower()
    if "full" in text:
        meaning = "the disk is full; nothing was changed"
    elif "readonly" in text or "read-only" in text:
        meaning = "the data file cannot be written; nothing was changed"
    elif "malformed" in text or "not a database" in text:
        meaning = "the data file is damaged; nothing was changed"
    elif "closed" in text:
        meaning = "the broker is closed"
    else:
        meaning = "the data file could not be read or written; nothing was changed"
    wrapped = ProviderError(f"{meaning} ({type(error).__name__}: {error})", code=SERVER_BUSY, is_transient=True)
    wrapped.__cause__ = error
    return wrapped
