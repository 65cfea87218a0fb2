"""Helpers of the tests of `GroupCommit`: a connection that raises, and a job that holds the lead."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from azsession.broker.embedded.group_commit import GroupCommit
from azsession.broker.embedded.jobs import Transaction
from tests.conftest import eventually

from .helpers import Background


class Connection(sqlite3.Connection):
    """Raises `after_commit` once, after a commit, as an interrupt during the commit does."""

    after_commit: BaseException | None = None

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
        cursor = super().execute(sql, *args)
        if sql == "COMMIT" and self.after_commit is not None:
            error, self.after_commit = self.after_commit, None
            raise error
        return cursor


class Gate:
    """A job that runs until `open`, so that the jobs that follow share a transaction."""

    def __init__(self, group: GroupCommit) -> None:
        self._group = group
        self._reached, self._opened = threading.Event(), threading.Event()
        self._job = Background(lambda: group.run(self._wait, durable=False))
        assert self._reached.wait(10)
        self._waiting: list[Background[Any]] = []

    def _wait(self, tx: Transaction) -> None:
        self._reached.set()
        assert self._opened.wait(10)

    def queue(self, *jobs: Callable[[Transaction], object]) -> list[Background[Any]]:
        """Queue jobs behind the gate, in this order."""
        for job in jobs:
            before = len(self._group._queue)
            self._waiting.append(Background(lambda job=job: self._group.run(job, durable=True)))
            eventually(lambda before=before: len(self._group._queue) == before + 1)
        return self._waiting

    def open(self) -> None:
        self._opened.set()
        self._job.result()


def insert(connection: Connection, value: int) -> Callable[[Transaction], int]:
    def job(tx: Transaction) -> int:
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        return value

    return job


def stored(connection: Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]
