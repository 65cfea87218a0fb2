"""Handlers for the tests of the command. They write their notes to files in the folder ``HANDLED_IN``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from azsession import DeadLetter, ReceivedMessage, SessionClient

NOT_A_FUNCTION = 7


def _folder() -> Path:
    return Path(os.environ["HANDLED_IN"])


def note(what: str, session: SessionClient | None, message: ReceivedMessage | None) -> None:
    line = f"{what} {session and session.session_id} {message and message.text()}\n"
    file = os.open(_folder() / "report", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def wait(message: ReceivedMessage, session: SessionClient) -> None:
    """Note the beginning, wait for the file ``go``, and note the end."""
    note("began", session, message)
    while not (_folder() / "go").exists():
        time.sleep(0.01)
    note("done", session, message)


def judge(message: ReceivedMessage, session: SessionClient) -> None:
    """Dead-letter "bad", fail once for "worse", and note whether the database connection is fresh."""
    from django.db import connection

    opened = connection.connection is None
    connection.cursor().execute("SELECT 1")
    note("fresh" if opened else "stale", session, message)
    if message.text() == "bad":
        raise DeadLetter("bad")
    if message.text() == "worse" and message.delivery_count == 1:
        raise ValueError("worse")


def on_error(error: BaseException, session: SessionClient | None, message: ReceivedMessage | None) -> None:
    note(type(error).__name__, session, message)


def on_opened(session: SessionClient) -> None:
    note("opened", session, None)


def on_closed(session: SessionClient) -> None:
    note("closed", session, None)
