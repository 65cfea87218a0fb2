"""Handlers for `azsession consume`, each in a process of its own: they report to the file that ``REPORT`` names, a line for
each call, and one for each session closed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from urllib.parse import quote

from azsession import DeadLetter, ReceivedMessage, SessionClient


def _report(*words: object) -> None:
    report = os.open(os.environ["REPORT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(report, (" ".join([str(os.getpid()), *map(str, words)]) + "\n").encode())
    finally:
        os.close(report)


def webhook(message: ReceivedMessage, session: SessionClient) -> None:
    """Take some time, and report a webhook."""
    _report("handled", quote(session.session_id, safe=""), json.loads(message.body)["position"], message.delivery_count)
    time.sleep(0.02)


def until_told(message: ReceivedMessage, session: SessionClient) -> None:
    """Report the beginning, and end once there is a file `REPORT`.go."""
    _report("began", message.text())
    while not Path(os.environ["REPORT"] + ".go").exists():
        time.sleep(0.01)
    _report("ended", message.text())


def refuse(message: ReceivedMessage, session: SessionClient) -> None:
    """Refuse every message."""
    raise DeadLetter("refused")


def closed(session: SessionClient) -> None:
    """Report the end of a session."""
    _report("closed", quote(session.session_id, safe=""))


NOT_A_FUNCTION = 7
