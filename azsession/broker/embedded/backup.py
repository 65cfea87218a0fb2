"""Copies the database of a running broker into a file, with SQLite's online backup. `EmbeddedBroker.backup` starts it.

A thread of its own makes the copy, in steps of some pages. The broker's connection may be used by one thread at a time, and
a step must not see a transaction that is rolled back later. So each step happens between two transactions, while the thread
that leads (see `group_commit`) waits for it. Between two steps, the broker serves its callers. SQLite writes their changes
into the copy, too: the copy has the state of the broker at its end.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

from ... import futures, threads
from ...errors import ProviderError, ThrottledError
from ...events import Event
from ...protocol.error_codes import QUOTA_EXCEEDED, SERVER_BUSY, THROTTLED
from ..calls import Backup
from .core import Core
from .jobs import Job

#: Pages of 4 KB that one step copies. A step takes less than a millisecond, unless the disk is slow.
STEP_PAGES = 128
#: The sequence numbers that a restored queue skips. The original broker goes on after the backup, so that clients may know
#: messages by the next numbers. The restored broker must not give these numbers to other messages.
SKIPPED_NUMBERS = 1 << 30
#: A queue that has come this far skips no more: a sequence number has 40 bits.
_LAST_TO_SKIP = 1 << 39


class _WithdrawnError(Exception):
    """The caller no longer wants the backup."""


def unfinished_file(data: Path) -> Path:
    """Return the path of the file in which a backup of a data file is made."""
    real = Path(os.path.realpath(data))
    return real.with_name(f"{real.name}.backup-part")


def remove_unfinished(data: Path) -> None:
    """Remove the file of a backup that was made when the process died. The caller has the data file open."""
    for suffix in ("", "-journal"):
        with suppress(OSError):
            os.unlink(f"{unfinished_file(data)}{suffix}")


class Backups:
    """Makes backups, one at a time.

    Args:
        core: The broker's state.
        data: The data file; `None` for a broker in memory, whose backups are made in the folder for temporary files.
    """

    def __init__(self, core: Core, data: Path | None) -> None:
        self._core = core
        self._data = data
        self._running = threading.Lock()  # Held while a backup is made.

    def start(self) -> Future[Backup]:
        """Start a backup in another thread. Cancelling the future ends it.

        Raises:
            ThrottledError: A backup is being made already.
            ProviderError: The process cannot start another thread, or the broker belongs to another process.
        """
        self._core.check_process()
        if not self._running.acquire(blocking=False):
            raise ThrottledError("a backup is being made already: try again later", code=THROTTLED, retry_after=1.0)
        future: futures.Future[Backup] = futures.Future()
        thread = threading.Thread(target=self._run, args=(future,), name="azsession-backup", daemon=True)
        try:
            threads.start(thread)
        except RuntimeError as error:
            self._running.release()
            raise ProviderError(f"the backup {error}", code=SERVER_BUSY, is_transient=True) from error
        return future

    def _run(self, future: Future[Backup]) -> None:
        made: Backup | None = None
        error: BaseException | None = None
        try:
            made = self._make(future)
        except _WithdrawnError:
            pass  # The future is cancelled.
        except (OSError, sqlite3.Error) as failure:
            error = self._storage_error(failure)
        except Exception as failure:
            error = failure
        finally:
            self._running.release()
        if not future.set_running_or_notify_cancel():
            if made is not None:
                made.file.close()
        elif made is not None:
            future.set_result(made)
        elif error is not None:
            future.set_exception(error)

    def _storage_error(self, failure: OSError | sqlite3.Error) -> ProviderError:
        place = "in the folder for temporary files" if self._data is None else "beside the data"
        # Not transient: a repeated attempt would copy everything once more.
        text = f"the backup could not be written; it is made {place} first: {failure}"
        error = ProviderError(text, code=QUOTA_EXCEEDED, status=507)
        error.__cause__ = failure
        return error

    def _make(self, future: Future[Backup]) -> Backup:
        path = self._new_file()
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                # The file is removed if anything fails, so that it needs neither a journal nor to reach the disk.
                copy.execute("PRAGMA journal_mode=OFF")
                copy.execute("PRAGMA synchronous=OFF")
                self._copy(copy, future)
                # A file of its own, without a log beside it.
                copy.execute("PRAGMA journal_mode=DELETE")
                copy.execute(
                    "UPDATE queues SET next_sequence = next_sequence + ? WHERE next_sequence < ?",
                    (SKIPPED_NUMBERS, _LAST_TO_SKIP),
                )
            file: BinaryIO = open(path, "rb")  # noqa: SIM115 - the caller closes it
        finally:
            # The open file stays readable, and disappears with its reader, also if this process is killed.
            with suppress(OSError):
                os.unlink(path)
        return Backup(file, os.fstat(file.fileno()).st_size)

    def _new_file(self) -> str:
        if self._data is None:
            descriptor, path = tempfile.mkstemp(prefix="azsession-", suffix=".backup-part")
        else:
            remove_unfinished(self._data)
            path = str(unfinished_file(self._data))
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.close(descriptor)
        return path

    def _copy(self, copy: sqlite3.Connection, future: Future[Backup]) -> None:
        turn = _Turn(self._core)

        def next_turn(status: int, remaining: int, total: int) -> None:
            if future.cancelled():
                raise _WithdrawnError
            if remaining:
                turn.end()
                turn.begin()

        turn.begin()
        try:
            self._core.connection.backup(copy, pages=STEP_PAGES, progress=next_turn)
        finally:
            turn.end()


class _Turn:
    """The right to use the broker's connection between two transactions, while the thread that leads waits."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ended = Event()

    def begin(self) -> None:
        """Wait for a turn.

        Raises:
            ProviderError: The broker is closed.
        """
        ended, begun = Event(), Event()

        def hand_over() -> None:
            begun.set()
            ended.wait()

        self._ended = ended
        job: Job[None] = Job(lambda tx: tx.after_commit(hand_over), False, self._core.clock.monotonic())
        job.future.add_done_callback(lambda _: begun.set())
        self._core.thread.start()
        # `submit` could run the job in this thread, which must copy meanwhile.
        self._core.commits.requeue(job)
        begun.wait()
        if job.future.done():
            job.future.result()

    def end(self) -> None:
        """Let the broker go on."""
        self._ended.set()
