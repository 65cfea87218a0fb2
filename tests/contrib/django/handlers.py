"""Handlers for the tests of the command. What they do, they do in the directory ``HANDLED_IN``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from azsession import DeadLetter, ReceivedMessage, SessionClient

NOT_A_FUNCTION = 7


def _place() -> Path:
    return Path(os.environ["HANDLED_IN"])


def note(what: str, session: SessionClient | None, message: ReceivedMessage | None) -> None:
    line = f"{what} {session and session.session_id} {message and message.text()}\n"
    file = os.open(_place() / "report", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def wait(message: ReceivedMessage, session: SessionClient) -> None:
    """Be in mid-handler until the file ``go`` is there."""
    note("began", session, message)
    while not (_place() / "go").exists():
        time.sleep(0.01)
    note("done", session, message)


def judge(message: ReceivedMessage, session: SessionClient) -> None:
    """Dead-letter what is bad, fail at what is worse, and note what the database connection is like."""
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
