"""The SQLite file of the embedded broker: its tables, and how it is opened, checked and shrunk.

`Core` opens the file. `store` has the statements that read and write its tables.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from ...errors import ConfigurationError
from ...logs import SessionLogger, get_logger

logger: SessionLogger = get_logger(__name__)

#: The application id in the SQLite header of azsession's files ("azse").
APPLICATION_ID = 0x617A7365
SCHEMA_VERSION = 6

ACTIVE, DEFERRED, SCHEDULED, DEAD = range(4)
STATE_NAMES = ("Active", "Deferred", "Scheduled", "DeadLettered")

#: SQLite copies its log into the file when the log has this many pages (4 MB), or on a small disk fewer. Before, the log and
#: the copied pages can need this part of the disk's free space.
LOG_PAGES, MIN_LOG_PAGES, LOG_SHARE = 1000, 32, 1 / 8

#: A file with at most this number of free pages (8 MB) is not shrunk.
MIN_FREE_PAGES = 2048

INCREMENTAL = 2  # The value of `PRAGMA auto_vacuum`.

#: The tables and indexes that schema version 2 added.
_SINCE_VERSION_2 = """
CREATE TABLE deleted_queues (id INTEGER PRIMARY KEY);
CREATE TABLE dead_letterings (
    session INTEGER PRIMARY KEY, queue INTEGER NOT NULL, last INTEGER NOT NULL, reason TEXT, description TEXT
);
CREATE INDEX sessions_free ON sessions (queue, head) WHERE head IS NOT NULL AND locked = 0;
CREATE INDEX sessions_locked ON sessions (id) WHERE locked = 1;
CREATE INDEX sessions_listed ON sessions (queue, name) WHERE head IS NOT NULL OR state IS NOT NULL OR deferred > 0;
"""

#: The triggers of schema versions 2 to 5, which kept fewer counters.
_FORMER_TRIGGERS = f"""
CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
    UPDATE sessions SET active = active + (NEW.status = {ACTIVE}), deferred = deferred + (NEW.status = {DEFERRED})
        WHERE id = NEW.session;
    UPDATE queues SET active = active + (NEW.status = {ACTIVE}), dead = dead + (NEW.status = {DEAD}) WHERE id = NEW.key >> 40;
END;
CREATE TRIGGER message_changed AFTER UPDATE OF status ON messages WHEN OLD.status <> NEW.status BEGIN
    UPDATE sessions SET active = active + (NEW.status = {ACTIVE}) - (OLD.status = {ACTIVE}),
        deferred = deferred + (NEW.status = {DEFERRED}) - (OLD.status = {DEFERRED}) WHERE id = NEW.session;
    UPDATE queues SET active = active + (NEW.status = {ACTIVE}) - (OLD.status = {ACTIVE}),
        dead = dead + (NEW.status = {DEAD}) - (OLD.status = {DEAD}) WHERE id = NEW.key >> 40;
END;
CREATE TRIGGER message_deleted AFTER DELETE ON messages BEGIN
    UPDATE sessions SET active = active - (OLD.status = {ACTIVE}), deferred = deferred - (OLD.status = {DEFERRED})
        WHERE id = OLD.session;
    UPDATE queues SET active = active - (OLD.status = {ACTIVE}), dead = dead - (OLD.status = {DEAD}) WHERE id = OLD.key >> 40;
END;
"""

#: The indexes of schema version 3. Deferred messages do not expire.
_SINCE_VERSION_3 = f"""
CREATE INDEX messages_expiring ON messages (expires) WHERE expires IS NOT NULL AND status = {ACTIVE};
CREATE INDEX messages_expiring_of_session ON messages (session, expires) WHERE expires IS NOT NULL AND status = {ACTIVE};
"""

#: The table of schema version 4: sessions that nobody may have for a while.
_SINCE_VERSION_4 = """
CREATE TABLE delays (
    queue INTEGER NOT NULL, name TEXT NOT NULL, until REAL NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (queue, name)
) WITHOUT ROWID;
"""

#: The triggers of schema version 6. They keep the counters of messages and sessions.
_TRIGGERS = f"""
CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
    UPDATE sessions SET active = active + (NEW.status = {ACTIVE}), deferred = deferred + (NEW.status = {DEFERRED})
        WHERE id = NEW.session;
    UPDATE queues SET active = active + (NEW.status = {ACTIVE}), deferred = deferred + (NEW.status = {DEFERRED}),
        scheduled = scheduled + (NEW.status = {SCHEDULED}), dead = dead + (NEW.status = {DEAD}) WHERE id = NEW.key >> 40;
END;
CREATE TRIGGER message_changed AFTER UPDATE OF status ON messages WHEN OLD.status <> NEW.status BEGIN
    UPDATE sessions SET active = active + (NEW.status = {ACTIVE}) - (OLD.status = {ACTIVE}),
        deferred = deferred + (NEW.status = {DEFERRED}) - (OLD.status = {DEFERRED}) WHERE id = NEW.session;
    UPDATE queues SET active = active + (NEW.status = {ACTIVE}) - (OLD.status = {ACTIVE}),
        deferred = deferred + (NEW.status = {DEFERRED}) - (OLD.status = {DEFERRED}),
        scheduled = scheduled + (NEW.status = {SCHEDULED}) - (OLD.status = {SCHEDULED}),
        dead = dead + (NEW.status = {DEAD}) - (OLD.status = {DEAD}) WHERE id = NEW.key >> 40;
END;
CREATE TRIGGER message_deleted AFTER DELETE ON messages BEGIN
    UPDATE sessions SET active = active - (OLD.status = {ACTIVE}), deferred = deferred - (OLD.status = {DEFERRED})
        WHERE id = OLD.session;
    UPDATE queues SET active = active - (OLD.status = {ACTIVE}), deferred = deferred - (OLD.status = {DEFERRED}),
        scheduled = scheduled - (OLD.status = {SCHEDULED}), dead = dead - (OLD.status = {DEAD}) WHERE id = OLD.key >> 40;
END;
CREATE TRIGGER session_changed AFTER UPDATE OF active ON sessions WHEN (OLD.active > 0) <> (NEW.active > 0) BEGIN
    UPDATE queues SET with_messages = with_messages + (NEW.active > 0) - (OLD.active > 0) WHERE id = NEW.queue;
END;
"""

SCHEMA = f"""
CREATE TABLE queues (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, next_sequence INTEGER NOT NULL,
    active INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0, scheduled INTEGER NOT NULL DEFAULT 0,
    deferred INTEGER NOT NULL DEFAULT 0, with_messages INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, name TEXT NOT NULL, head INTEGER, state BLOB,
    locked INTEGER NOT NULL DEFAULT 0, active INTEGER NOT NULL DEFAULT 0, deferred INTEGER NOT NULL DEFAULT 0, state_set REAL,
    UNIQUE (queue, name)
);
CREATE TABLE messages (
    key INTEGER PRIMARY KEY, session INTEGER NOT NULL, status INTEGER NOT NULL, enqueued REAL NOT NULL, due REAL,
    expires REAL, reason TEXT, description TEXT, properties TEXT NOT NULL, body BLOB NOT NULL, encoded BLOB
);
CREATE INDEX messages_of_session ON messages (session, status, key);
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
{_SINCE_VERSION_2}{_SINCE_VERSION_3}{_SINCE_VERSION_4}{_TRIGGERS}PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

_UPGRADE_TO_VERSION_2 = f"""
BEGIN IMMEDIATE;
ALTER TABLE queues ADD COLUMN active INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN locked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN active INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN deferred INTEGER NOT NULL DEFAULT 0;
DROP INDEX sessions_ready;
UPDATE sessions SET
    active = (SELECT count(*) FROM messages WHERE session = sessions.id AND status = {ACTIVE}),
    deferred = (SELECT count(*) FROM messages WHERE session = sessions.id AND status = {DEFERRED});
UPDATE queues SET
    active = (SELECT count(*) FROM messages WHERE key >> 40 = queues.id AND status = {ACTIVE}),
    dead = (SELECT count(*) FROM messages WHERE key >> 40 = queues.id AND status = {DEAD});
{_SINCE_VERSION_2}{_FORMER_TRIGGERS}
PRAGMA user_version = 2;
COMMIT;
"""

_UPGRADE_TO_VERSION_3 = f"""
BEGIN IMMEDIATE;
DROP INDEX messages_expiring;
{_SINCE_VERSION_3}
PRAGMA user_version = 3;
COMMIT;
"""

_UPGRADE_TO_VERSION_4 = f"""
BEGIN IMMEDIATE;
{_SINCE_VERSION_4}
PRAGMA user_version = 4;
COMMIT;
"""

#: Version 5 added the parts of AMQP messages, and the times at which session states were set.
_UPGRADE_TO_VERSION_5 = """
BEGIN IMMEDIATE;
ALTER TABLE messages ADD COLUMN encoded BLOB;
ALTER TABLE sessions ADD COLUMN state_set REAL;
PRAGMA user_version = 5;
COMMIT;
"""

#: Version 6 added the counters of scheduled and deferred messages, and of sessions.
_UPGRADE_TO_VERSION_6 = f"""
BEGIN IMMEDIATE;
DROP TRIGGER message_added;
DROP TRIGGER message_changed;
DROP TRIGGER message_deleted;
ALTER TABLE queues ADD COLUMN scheduled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN deferred INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN with_messages INTEGER NOT NULL DEFAULT 0;
UPDATE queues SET scheduled = counted FROM
    (SELECT key >> 40 AS queue, count(*) AS counted FROM messages WHERE status = {SCHEDULED} GROUP BY 1) WHERE id = queue;
UPDATE queues SET deferred = set_aside, with_messages = filled FROM
    (SELECT queue, sum(deferred) AS set_aside, sum(active > 0) AS filled FROM sessions GROUP BY queue) WHERE id = queue;
{_TRIGGERS}
PRAGMA user_version = 6;
COMMIT;
"""


def open_database(path: Path | None) -> sqlite3.Connection:
    """Open the data file, or a database in memory, and create the tables if they do not exist.

    Raises:
        ConfigurationError: Another process has the file open, the file is damaged, belongs to a newer azsession or to another
            program, or cannot be written.
    """
    where = ":memory:" if path is None else str(path)
    if path is not None:
        _create_private(path)
    shown = "the broker's memory" if path is None else f"the data file {path}"
    try:
        if path is not None:
            _check_file(path, shown)
        connection = sqlite3.connect(where, timeout=0, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigurationError(f"{shown} {_reason(error, path)}") from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(f"{shown} {_reason(error, path)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _create_private(path: Path) -> None:
    """Create a missing file with mode 0600, whatever the umask is. SQLite gives the `-wal` file the same mode.

    An existing file is not opened: closing it again would release the POSIX locks that this process has on the file.
    """
    try:
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        # The file exists or cannot be created. SQLite reports the reason when it opens the file.
        return


def _reason(error: sqlite3.Error, path: Path | None) -> str:
    text = str(error).lower()
    if "locked" in text:
        return "is open in another process or broker; only one may open it, because a session has one holder"
    if "not a database" in text or "malformed" in text:
        return f"is damaged or not an azsession data file ({error}); it was not changed"
    if path is not None and not path.parent.is_dir():
        return "cannot be opened: its directory does not exist"
    if "readonly" in text or "read-only" in text or not _writable(path):
        return "cannot be written: check its permissions and those of its directory"
    if "full" in text:
        return "cannot be written: the disk is full"
    return f"cannot be opened: {error}"


def _writable(path: Path | None) -> bool:
    # SQLite reports only "disk I/O error" if it cannot lock the file or create the files beside it.
    return path is None or all(os.access(one, os.W_OK) for one in (path, path.parent) if one.exists())


def _check_file(path: Path, shown: str) -> None:
    """Check an existing file without changing it. A writable connection would apply the file's log when it closes.

    Raises:
        ConfigurationError: The file is damaged, newer than this version, or belongs to another program.
    """
    if not path.is_file():
        return
    # An interrupted first start leaves a rollback journal. Only a writable connection can apply it.
    mode = "rw" if path.with_name(f"{path.name}-journal").exists() else "ro"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
        _check(connection, shown)


def check_data_file(path: Path, shown: str) -> None:
    """Check that a file is a complete data file, for example a backup. Reads all of it.

    Raises:
        ConfigurationError: The file is damaged, newer than this version, or no data file.
    """
    try:
        _check_file(path, shown)
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{shown} {_reason(error, path)}") from error
    if application != APPLICATION_ID:
        raise ConfigurationError(f"{shown} is damaged or not an azsession data file")


def _check(connection: sqlite3.Connection, shown: str) -> None:
    run = connection.execute
    (application,) = run("PRAGMA application_id").fetchone()
    (version,) = run("PRAGMA user_version").fetchone()
    (tables,) = run("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (tables or application or version):
        raise ConfigurationError(f"{shown} is an SQLite file of another program; it was not changed")
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{shown} was written by a newer azsession (schema {version}; this version knows {SCHEMA_VERSION}): "
            "upgrade azsession; the file was not changed"
        )
    damage = run("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise ConfigurationError(f"{shown} is damaged ({damage.splitlines()[-1]}); it was not changed")


def _prepare(connection: sqlite3.Connection, path: Path | None) -> None:
    run = connection.execute
    run("PRAGMA locking_mode=EXCLUSIVE")
    if not run("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        # Allows the file to shrink later. SQLite accepts this setting only before the first write.
        run("PRAGMA auto_vacuum=INCREMENTAL")
    # Take the exclusive lock. In this locking mode the connection keeps it.
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
    for version, upgrade in (
        (1, _UPGRADE_TO_VERSION_2),
        (2, _UPGRADE_TO_VERSION_3),
        (3, _UPGRADE_TO_VERSION_4),
        (4, _UPGRADE_TO_VERSION_5),
        (5, _UPGRADE_TO_VERSION_6),
    ):
        if run("PRAGMA user_version").fetchone()[0] == version:
            connection.executescript(upgrade)
    # A write without effect: a file that cannot be written fails here, and not in the first send.
    run("BEGIN IMMEDIATE")
    run(f"PRAGMA user_version={SCHEMA_VERSION}")
    run("COMMIT")
    if path is not None:
        _bound_log(connection, path)


def _bound_log(connection: sqlite3.Connection, path: Path) -> None:
    """Let SQLite copy its log into the file before the log fills a small disk. On a full disk, nothing can be copied."""
    run = connection.execute
    (page_size,) = run("PRAGMA page_size").fetchone()
    share = shutil.disk_usage(path.resolve().parent).free * LOG_SHARE / page_size
    pages = int(min(LOG_PAGES, max(MIN_LOG_PAGES, share)))
    run(f"PRAGMA wal_autocheckpoint={pages}")
    with suppress(sqlite3.Error):
        # The pages of the tables.
        run("PRAGMA wal_checkpoint(PASSIVE)")


def is_mostly_free(connection: sqlite3.Connection) -> bool:
    """Return whether more than half of the file, and more than `MIN_FREE_PAGES`, is unused."""
    (free,), (pages,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("freelist_count", "page_count"))
    return bool(free > MIN_FREE_PAGES and 2 * free > pages)


def _rewrite_if_mostly_free(connection: sqlite3.Connection) -> None:
    """Rewrite a file without incremental vacuum if that at least halves its size."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode == INCREMENTAL or not is_mostly_free(connection):
        return
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        # The disk has no room for the copy. The file stays valid.
        logger.warning("the data file could not be shrunk (%s); it is used as it is", error)
