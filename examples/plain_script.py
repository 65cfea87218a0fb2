"""Orders of a shop, each handled step by step, many at once; one of them cannot be right, and is set aside whole.

    python examples/plain_script.py

shows it with a broker in memory; with SERVICEBUS_CONNECTION_STRING set, on the queue "orders" of that server.
"""

import json
import os
import threading

from azsession import (
    DeadLetterSession,
    Message,
    ReceivedMessage,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
)

ORDERS = {
    "order-1001": [("placed", 20), ("paid", 20), ("shipped", 0)],
    "order-1002": [("placed", 35), ("paid", 30), ("paid", 5), ("shipped", 0)],
    "order-1003": [("placed", 12), ("shipped", 0), ("paid", 12)],  # Shipped before it was paid?
    "order-1004": [("placed", 8), ("cancelled", 0)],
}


def send(provider: ServiceBusProvider) -> None:
    """Send the steps as they happen: those of one order after each other, between those of others."""
    for number in range(max(len(steps) for steps in ORDERS.values())):
        for order, steps in ORDERS.items():
            if number < len(steps):
                step, amount = steps[number]
                provider.send_message("orders", Message(json.dumps({"step": step, "amount": amount}), session_id=order))


def handle(message: ReceivedMessage, session: SessionClient) -> None:
    """Do one step. What is to be paid still is kept with the session, for whichever process gets its next message."""
    event, due = message.json(), float(session.get_session_state() or 0)
    if event["step"] == "shipped" and due > 0:
        raise DeadLetterSession("shipped before it was paid", f"{due:.2f} were due")
    due += {"placed": event["amount"], "paid": -event["amount"], "cancelled": -due}.get(event["step"], 0)
    session.set_session_state(f"{due:.2f}".encode())
    # In one piece, as other sessions are handled at the same time.
    print(f"{session.session_id}: {event['step']:<9} {due:6.2f} due\n", end="", flush=True)
    if event["step"] in ("shipped", "cancelled"):
        session.set_session_state(None)


def main() -> None:
    server = bool(os.environ.get("SERVICEBUS_CONNECTION_STRING"))
    with ServiceBusProvider.from_env() if server else ServiceBusProvider.embedded() as provider:
        send(provider)
        finished = threading.Event()

        def look_whether_all_is_done(session: SessionClient) -> None:
            done = processor.stats.messages_done + processor.stats.messages_dead_lettered
            if done >= sum(map(len, ORDERS.values())):
                finished.set()

        processor = SessionProcessor(provider, "orders", handle, on_session_closed=look_whether_all_is_done)
        with processor:
            finished.wait()
        for letter in provider.dead_letters("orders"):
            print(f"{letter.session_id}: {letter.json()['step']:<9} set aside: {letter.dead_letter_reason}")


if __name__ == "__main__":
    main()
