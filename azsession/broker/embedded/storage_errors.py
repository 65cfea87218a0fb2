"""The errors of SQLite as errors that callers of the embedded broker get. `GroupCommit` calls `storage_error`."""

from __future__ import annotations

import sqlite3

from ...errors import ProviderError
from ...protocol.error_codes import SERVER_BUSY


def storage_error(error: sqlite3.Error) -> ProviderError:
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
