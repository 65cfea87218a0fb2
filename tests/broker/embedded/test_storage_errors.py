"""Errors of SQLite in a job become errors that say what failed, and that nothing was changed."""

from __future__ import annotations

import sqlite3

import pytest

from azsession import ProviderError
from azsession.broker.embedded.group_commit import GroupCommit
from azsession.broker.embedded.jobs import Transaction


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("database or disk is full", "the disk is full"),
        ("attempt to write a readonly database", "cannot be written"),
        ("database disk image is malformed", "is damaged"),
        ("file is not a database", "is damaged"),
        ("Cannot operate on a closed database.", "the broker is closed"),
        ("disk I/O error", "could not be read or written"),
    ],
)
def test_errors_of_sqlite_become_errors_with_a_clear_text(group: GroupCommit, text: str, meaning: str) -> None:
    def job(tx: Transaction) -> None:
        raise sqlite3.OperationalError(text)

    with pytest.raises(ProviderError, match=meaning) as caught:
        group.run(job, durable=True)
    assert (caught.value.code, caught.value.is_transient) == ("ServerBusy", True)
