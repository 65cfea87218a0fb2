"""Orders of a shop: many are handled at once, each step by step. One order is wrong, and all of it is dead-lettered.

    python examples/plain_script.py

runs it with a broker in memory. With SERVICEBUS_CONNECTION_STRING set, it uses the queue "orders" of that server.
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
    """Send the steps of all orders in turns, those of each order in order."""
    for number in range(max(len(steps) for steps in ORDERS.values())):
        for order, steps in ORDERS.items():
            if number < len(steps):
                step, amount = steps[number]
                provider.send_message("orders", Message(json.dumps({"step": step, "amount": amount}), session_id=order))


def handle(message: ReceivedMessage, session: SessionClient) -> None:
    """Handle one step. The amount due is kept in the session state, for the process that gets the next message."""
    event, due = message.json(), float(session.get_session_state() or 0)
    if event["step"] == "shipped" and due > 0:
        raise DeadLetterSession("shipped before it was paid", f"{due:.2f} were due")
    due += {"placed": event["amount"], "paid": -event["amount"], "cancelled": -due}.get(event["step"], 0)
    session.set_session_state(f"{due:.2f}".encode())
    # One string with its newline: other threads print at the same time.
    print(f"{session.session_id}: {event['step']:<9} {due:6.2f} due\n", end="", flush=True)
    if event["step"] in ("shipped", "cancelled"):
        session.set_session_state(None)


def main() -> None:
    server = bool(os.environ.get("SERVICEBUS_CONNECTION_STRING"))
    with ServiceBusProvider.from_env() if server else ServiceBusProvider.embedded() as provider:
        send(provider)
        finished = threading.Event()

        def finish_when_all_are_handled(session: SessionClient) -> None:
            done = processor.stats.messages_done + processor.stats.messages_dead_lettered
            if done >= sum(map(len, ORDERS.values())):
                finished.set()

        processor = SessionProcessor(provider, "orders", handle, on_session_closed=finish_when_all_are_handled)
        with processor:
            finished.wait()
        for letter in provider.dead_letters("orders"):
            print(f"{letter.session_id}: {letter.json()['step']:<9} dead-lettered: {letter.dead_letter_reason}")


if __name__ == "__main__":
    main()
