"""GitHub's webhooks in a Flask app: it stores them at once, and workers handle those of each pull request in order.

    python examples/flask_app.py

runs it with a broker in memory. With several processes, start a broker with `azsession serve --auto-create`:

    SERVICEBUS_CONNECTION_STRING=... gunicorn --preload --workers 3 --threads 8 --chdir examples "flask_app:create_app()"
    SERVICEBUS_CONNECTION_STRING=... flask --app examples/flask_app.py azsession consume webhooks flask_app:note
"""

import json

from flask import Flask, Response, current_app, request

from azsession import InvalidReceiptError, Message, NoSessionAvailableError, ReceivedMessage, SessionClient
from azsession.contrib.flask import AzSession, current_provider

azsession = AzSession()
#: Sessions whose messages workers have. They stay open while their locks last, so that no other worker gets their messages.
handed_out: set[SessionClient] = set()


def create_app(**config: object) -> Flask:
    app = Flask(__name__)
    app.config.update(config)
    azsession.init_app(app)
    app.add_url_rule("/webhooks", view_func=take_in, methods=["POST"])
    app.add_url_rule("/work", view_func=hand_out, methods=["POST"])
    app.add_url_rule("/done", view_func=settle, methods=["POST"])
    return app


def take_in() -> tuple[str, int]:
    """Receive a webhook from GitHub. It is stored when this returns."""
    body, event = request.get_json(), request.headers.get("X-GitHub-Event", "")
    session_id = f"{body['repository']['full_name']}/{body.get('number', '')}"
    current_provider.send_message("webhooks", Message(request.get_data(), session_id=session_id, subject=event))
    return "", 202


def hand_out() -> tuple[Response | str, int]:
    """Give a worker the next messages of a session, with receipts that are valid while the lock lasts."""
    try:
        session = current_provider.create_session_client(
            "webhooks", accept_timeout=1, auto_renew=False, on_lock_lost=lambda over, error: handed_out.discard(over)
        )
    except NoSessionAvailableError:
        return "", 204
    handed_out.add(session)
    messages = session.receive_messages(10, timeout=0)
    work = [{"receipt": str(m.receipt), "event": m.subject, "payload": m.json()} for m in messages]
    return current_app.json.response(session=session.session_id, messages=work), 200


def settle() -> tuple[str, int]:
    """Complete a message for a worker. Another process may have handed it out."""
    receipt = request.get_json()["receipt"]
    try:
        with current_provider.session_from_receipt(receipt) as session:
            session.complete_message(receipt)
    except InvalidReceiptError as error:
        return str(error), 410  # Too late: the lock has expired, and another worker gets the message.
    return "", 204


def note(message: ReceivedMessage, session: SessionClient) -> None:
    """Handle a webhook in a consumer instead: `flask azsession consume webhooks flask_app:note`."""
    print(f"{session.session_id}: {message.subject} {message.json()['action']}", flush=True)


if __name__ == "__main__":
    app = create_app(AZSESSION_EMBEDDED="memory")
    http = app.test_client()
    for number, action in [(7, "opened"), (8, "opened"), (7, "labeled"), (8, "closed"), (7, "closed")]:
        body = {"action": action, "number": number, "repository": {"full_name": "octo-org/shop"}}
        http.post("/webhooks", json=body, headers={"X-GitHub-Event": "pull_request"})
    while work := http.post("/work").json:
        for each in work["messages"]:
            done = http.post("/done", json={"receipt": each["receipt"]})
            print(json.dumps([work["session"], each["event"], each["payload"]["action"], done.status]))
