"""A client in its own process, which obeys commands: ``python -m tests.hostile.client_process QUEUE SESSION``.

The first line of standard input is a connection string. Each further line is a command and its arguments, as JSON. The
answer to each is one line of JSON: the result, or the class, text and code of the error.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from azsession import Message, QueueError, ReceivedMessage, ServiceBusProvider, SessionClient, SessionProcessor


class Client:
    def __init__(self, provider: ServiceBusProvider, queue: str, session_id: str) -> None:
        self.provider, self.queue, self.session_id = provider, queue, session_id
        self.session: SessionClient | None = None
        self.messages: dict[str, ReceivedMessage] = {}

    def open(self, renew: bool) -> None:
        self.session = self.provider.create_session_client(self.queue, self.session_id, auto_renew=renew)

    def send(self, *bodies: str) -> None:
        self.provider.send_messages(self.queue, [Message(body, session_id=self.session_id) for body in bodies])

    def receive(self, timeout: float, prefetch: int = 1) -> str | None:
        assert self.session is not None
        found = next(self.session.messages(timeout, prefetch), None)
        if found is None:
            return None
        self.messages[found.text()] = found
        return found.text()

    def complete(self, body: str) -> None:
        assert self.session is not None
        self.session.complete_message(self.messages[body])

    def renew(self) -> None:
        assert self.session is not None
        self.session.renew_session_lock()

    def is_lost(self) -> bool:
        assert self.session is not None
        return self.session.is_lock_lost

    def sessions(self) -> list[str]:
        return [found.session_id for found in self.provider.list_sessions(self.queue)]

    def process(self, last: str) -> list[str]:
        """Handle messages until the `last` one. At the first one, write a line and wait for a line."""
        handled: list[str] = []
        done = threading.Event()

        def handle(message: ReceivedMessage, session: SessionClient) -> None:
            handled.append(message.text())
            if len(handled) == 1:
                print("handling", flush=True)
                sys.stdin.readline()
            if handled[-1] == last:
                done.set()

        with SessionProcessor(self.provider, self.queue, handle, session_ids=[self.session_id]):
            done.wait(60)
        return handled


def main(queue: str, session_id: str) -> None:
    connection_string = sys.stdin.readline().strip()
    config: dict[str, Any] = {"retry_attempts": 2, "retry_deadline": 5}
    with ServiceBusProvider.from_connection_string(connection_string, **config) as provider:
        client = Client(provider, queue, session_id)
        print("ready", flush=True)
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            try:
                answer = {"result": getattr(client, command)(*arguments)}
            except QueueError as error:
                answer = {"error": type(error).__name__, "text": str(error), "code": error.code}
            print(json.dumps(answer), flush=True)
        if client.session is not None:
            client.session.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
