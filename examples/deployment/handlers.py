"""The handler of the consumer in the examples of this folder."""

from azsession import ReceivedMessage, SessionClient


def handle_order(message: ReceivedMessage, session: SessionClient) -> None:
    """Print a message. When this returns, the message is completed."""
    print(f"{session.session_id}: {message.text()}", flush=True)
