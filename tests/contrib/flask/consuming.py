"""An app and handlers for `flask azsession consume`, each in a process of its own: they report to the file that ``REPORT``
names, a line for each call and teardown."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flask import Flask, current_app, g

from azsession import DeadLetter, ReceivedMessage, SessionClient
from azsession.contrib.flask import AzSession

azsession = AzSession()


def _report(*words: object) -> None:
    with Path(os.environ["REPORT"]).open("a", encoding="utf-8") as report:
        report.write(" ".join(map(str, words)) + "\n")


def create_app() -> Flask:
    app = Flask("shop")
    azsession.init_app(app)

    @app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        # Also the command has a context.
        if "message" in g:
            _report("torn-down", g.message, type(error).__name__)

    return app


def until_told(message: ReceivedMessage, session: SessionClient) -> None:
    """Report the beginning, and end once there is a file `REPORT`.go."""
    assert "message" not in g
    g.message = message.text()
    _report("began", current_app.name, message.text())
    while not Path(os.environ["REPORT"] + ".go").exists():
        time.sleep(0.01)
    _report("ended", message.text())


def refuse(message: ReceivedMessage, session: SessionClient) -> None:
    """Refuse every message."""
    g.message = message.text()
    raise DeadLetter("refused")


def closed(session: SessionClient) -> None:
    """Report the end of a session."""
    _report("closed", current_app.name, session.session_id)


NOT_A_FUNCTION = 7
