"""The SQLite file of the embedded broker: its tables, how it is opened and checked, and how an old one is made smaller.

`Core` opens it; `store` has the statements on what is in it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ...errors import ConfigurationError

logger: logging.Logger = logging.getLogger(__name__)

#: Marks a file as azsession's ("azse"), in the SQLite header.
APPLICATION_ID = 0x617A7365
SCHEMA_VERSION = 1

ACTIVE, DEFERRED, SCHEDULED, DEAD = range(4)
STATE_NAMES = ("Active", "Deferred", "Scheduled", "DeadLettered")

#: Free pages of a file that are no reason to make it smaller: 8 MB.
MIN_FREE_PAGES = 2048

INCREMENTAL = 2  # As `PRAGMA auto_vacuum` tells it.

SCHEMA = f"""
CREATE TABLE queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, next_sequence INTEGER NOT NULL
);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, name TEXT NOT NULL, head INTEGER, state BLOB, UNIQUE (queue, name)
);
CREATE INDEX sessions_ready ON sessions (queue, head) WHERE head IS NOT NULL;
CREATE TABLE messages (
    key INTEGER PRIMARY KEY, session INTEGER NOT NULL, status INTEGER NOT NULL, enqueued REAL NOT NULL, due REAL,
    expires REAL, reason TEXT, description TEXT, properties TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX messages_of_session ON messages (session, status, key);
CREATE INDEX messages_expiring ON messages (expires) WHERE expires IS NOT NULL AND status < {SCHEDULED};
CREATE INDEX messages_scheduled ON messages (due) WHERE status = {SCHEDULED};
CREATE INDEX messages_dead ON messages (key) WHERE status = {DEAD};
CREATE TABLE deliveries (key INTEGER PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE duplicates (
    queue INTEGER NOT NULL, message_id TEXT NOT NULL, expires REAL NOT NULL, PRIMARY KEY (queue, message_id)
) WITHOUT ROWID;
CREATE INDEX duplicates_expiring ON duplicates (expires);
CREATE TABLE settled_0 (key INTEGER, token TEXT, disposition TEXT NOT NULL, PRIMARY KEY (key, token)) WITHOUT ROWID;
CREATE TABLE settled_1 (key INTEGER, token TEXT, disposition TEXT NOT NULL, PRIMARY KEY (key, token)) WITHOUT ROWID;
CREATE TABLE requests_0 (queue INTEGER, request TEXT, PRIMARY KEY (queue, request)) WITHOUT ROWID;
CREATE TABLE requests_1 (queue INTEGER, request TEXT, PRIMARY KEY (queue, request)) WITHOUT ROWID;
CREATE TABLE turnover (name TEXT PRIMARY KEY, current INTEGER NOT NULL, until REAL NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


def open_database(path: Path | None) -> sqlite3.Connection:
    """Open the data file, or memory, and make its tables if it is new.

    Raises:
        ConfigurationError: The file is another process's, damaged, of a newer azsession, something else altogether, or
            cannot be written.
    """
    where = ":memory:" if path is None else str(path)
    if path is not None:
        _make_private(path)
    shown = "the broker's memory" if path is None else f"the data file {path}"
    try:
        if path is not None:
            _look_at(path, shown)
        connection = sqlite3.connect(where, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigurationError(f"{shown} {_why_not(error, path)}") from error
    try:
        _prepare(connection)
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(f"{shown} {_why_not(error, path)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Make a file that is not there yet as its owner's alone, whatever the umask is; SQLite gives its log the same mode.

    One that is there is not so much as opened: to close it again would end the locks that this process has on it.
    """
    try:
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        # It is there, or cannot be made: SQLite says why.
        return


def _why_not(error: sqlite3.Error, path: Path | None) -> str:
    text = str(error).lower()
    if "locked" in text:
        return "is open in another process or broker: one file has one owner, else a session could have two holders"
    if "not a database" in text or "malformed" in text:
        return f"is damaged, or no azsession data file ({error}); it was left as it is"
    if path is not None and not path.parent.is_dir():
        return "cannot be opened: its folder does not exist"
    if "readonly" in text or "read-only" in text or not _writable(path):
        return "cannot be written: check its permissions and those of its folder"
    if "full" in text:
        return "cannot be written: the disk is full"
    return f"cannot be opened: {error}"


def _writable(path: Path | None) -> bool:
    # SQLite says no more than "disk I/O error" where it may not lock a file, or not make one beside it.
    return path is None or all(os.access(one, os.W_OK) for one in (path, path.parent) if one.exists())


def _look_at(path: Path, shown: str) -> None:
    """Raise where a file is not for us. It is not opened for writing: closing it would take over what its log holds."""
    if not path.is_file():
        return
    # A first start that was cut off leaves a journal, which only a writer can play back.
    mode = "rw" if path.with_name(f"{path.name}-journal").exists() else "ro"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
        _check(connection, shown)


def _check(connection: sqlite3.Connection, shown: str) -> None:
    run = connection.execute
    (application,) = run("PRAGMA application_id").fetchone()
    (version,) = run("PRAGMA user_version").fetchone()
    (tables,) = run("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (tables or application or version):
        raise ConfigurationError(f"{shown} is an SQLite file of another program; it was left as it is")
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{shown} was written by a newer azsession (schema {version}, this one knows {SCHEMA_VERSION}): "
            "upgrade azsession; the file was left as it is"
        )
    damage = run("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise ConfigurationError(f"{shown} is damaged ({damage.splitlines()[-1]}); it was left as it is")


def _prepare(connection: sqlite3.Connection) -> None:
    run = connection.execute
    run("PRAGMA locking_mode=EXCLUSIVE")
    if not run("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        # So that the file can become smaller again; it must be said before anything is written.
        run("PRAGMA auto_vacuum=INCREMENTAL")
    # Takes the exclusive lock, which this connection then keeps.
    run("PRAGMA journal_mode=WAL")
    run("BEGIN IMMEDIATE")
    run("COMMIT")
    run("PRAGMA synchronous=FULL")
    _rewrite_if_mostly_free(connection)
    run("PRAGMA temp_store=MEMORY")
    run("PRAGMA cache_size=-32768")
    run("PRAGMA journal_size_limit=67108864")
    if not run("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
    # A write that changes nothing: a file that cannot be written is found out now, not by the first send.
    run("BEGIN IMMEDIATE")
    run(f"PRAGMA user_version={SCHEMA_VERSION}")
    run("COMMIT")


def is_mostly_free(connection: sqlite3.Connection) -> bool:
    """Tell whether most of the file holds nothing, and that is worth the trouble."""
    (free,), (pages,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_count"))
    return bool(free > MIN_FREE_PAGES and 2 * free > pages)


def _rewrite_if_mostly_free(connection: sqlite3.Connection) -> None:
    """Rewrite a file that was made before files could shrink while they are used, where that makes it less than half."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode == INCREMENTAL or not is_mostly_free(connection):
        return
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        # There is no room for a copy: the file is as good as before.
        logger.warning("the data file could not be made smaller (%s); it is used as it is", error)
