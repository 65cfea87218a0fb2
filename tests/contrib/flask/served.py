"""The example as gunicorn loads it here: the process that forks the workers has used its provider, and holds a session."""

from __future__ import annotations

from flask_app import azsession, create_app

from azsession import Message

app = create_app()

with app.app_context():
    azsession.provider.send_message("kept", Message("by the one who forks", session_id="kept"))
    kept = azsession.provider.create_session_client("kept", "kept")
    assert kept.receive_message(timeout=5) is not None
