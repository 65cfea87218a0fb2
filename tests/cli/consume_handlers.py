"""Handlers for `azsession consume` processes. They write one line for each call to the file named by ``REPORT``."""

from __future__ import annotations

import json
import os
import time
from urllib.parse import quote

from azsession import DeadLetter, ReceivedMessage, SessionClient
from tests.support.told import wait_until_told


def _report(*words: object) -> None:
    report = os.open(os.environ["REPORT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(report, (" ".join([str(os.getpid()), *map(str, words)]) + "\n").encode())
    finally:
        os.close(report)


def webhook(message: ReceivedMessage, session: SessionClient) -> None:
    """Report a webhook, then take some time."""
    _report("handled", quote(session.session_id, safe=""), json.loads(message.body)["position"], message.delivery_count)
    time.sleep(0.02)


def until_told(message: ReceivedMessage, session: SessionClient) -> None:
    """Report the start, wait for the file ``$REPORT.go``, and report the end."""
    _report("began", message.text())
    wait_until_told()
    _report("ended", message.text())


def refuse(message: ReceivedMessage, session: SessionClient) -> None:
    """Dead-letter every message."""
    raise DeadLetter("refused")


def closed(session: SessionClient) -> None:
    """Report the end of a session."""
    _report("closed", quote(session.session_id, safe=""))


NOT_A_FUNCTION = 7
