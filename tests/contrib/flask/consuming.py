"""An app and handlers for `flask azsession consume`. They write a line for each call and teardown to the file ``REPORT``."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, current_app, g

from azsession import DeadLetter, ReceivedMessage, SessionClient
from azsession.contrib.flask import AzSession
from tests.support.told import wait_until_told

azsession = AzSession()


def _report(*words: object) -> None:
    with Path(os.environ["REPORT"]).open("a", encoding="utf-8") as report:
        report.write(" ".join(map(str, words)) + "\n")


def create_app() -> Flask:
    app = Flask("shop")
    azsession.init_app(app)

    @app.teardown_appcontext
    def teardown(error: BaseException | None) -> None:
        # The command itself has a context too.
        if "message" in g:
            _report("torn-down", g.message, type(error).__name__)

    return app


def until_told(message: ReceivedMessage, session: SessionClient) -> None:
    """Report the beginning, wait for the file `REPORT`.go, and report the end."""
    assert "message" not in g
    g.message = message.text()
    _report("began", current_app.name, message.text())
    wait_until_told()
    _report("ended", message.text())


def refuse(message: ReceivedMessage, session: SessionClient) -> None:
    """Refuse every message."""
    g.message = message.text()
    raise DeadLetter("refused")


def closed(session: SessionClient) -> None:
    """Report the end of a session."""
    _report("closed", current_app.name, session.session_id)


NOT_A_FUNCTION = 7
