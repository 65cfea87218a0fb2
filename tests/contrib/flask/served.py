"""The example for gunicorn. The process that forks the workers uses its own provider before, and holds a session."""

from __future__ import annotations

from flask_app import azsession, create_app

from azsession import Message

app = create_app()

with app.app_context():
    azsession.provider.send_message("kept", Message("from the parent", session_id="kept"))
    kept = azsession.provider.create_session_client("kept", "kept")
    assert kept.receive_message(timeout=5) is not None
