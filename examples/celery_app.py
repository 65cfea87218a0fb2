"""Payments in Celery: a task for each customer books that customer's payments in order, many customers at once.

    python examples/celery_app.py

runs it in one process, with brokers in memory. In production, use `azsession serve` or Azure, and a broker for Celery:

    export SERVICEBUS_CONNECTION_STRING=... CELERY_BROKER=redis://...
    celery --app examples.celery_app worker --concurrency 4
    azsession celery-dispatch --app examples.celery_app
"""

import os
import signal
import threading
from decimal import Decimal

from celery import Celery
from celery.signals import worker_ready

from azsession import DeadLetter, Message, ReceivedMessage, SessionClient
from azsession.contrib.celery import Dispatcher, current_provider, session_task, settle_on_success

PAYMENTS = [
    ("anna", "20.00"),
    ("boris", "7.50"),
    ("anna", "-5.00"),
    ("carla", "12 or so"),
    ("boris", "2.50"),
    ("anna", "1.25"),
]

app = Celery("shop", broker=os.environ.get("CELERY_BROKER", "memory://"))
app.conf.azsession = os.environ.get("SERVICEBUS_CONNECTION_STRING") or {"embedded": "memory"}
app.conf.update(task_ignore_result=True, worker_redirect_stdouts=False, broker_transport_options={"polling_interval": 0.1})


@session_task("payments", app=app)
def book(message: ReceivedMessage, session: SessionClient) -> None:
    """Book one payment. No other task books for this customer at the same time, so the balance needs no lock."""
    try:
        amount = Decimal(message.text())
    except ArithmeticError:
        raise DeadLetter("not an amount") from None
    balance = Decimal((session.get_session_state() or b"0").decode()) + amount
    session.set_session_state(str(balance).encode())
    # One string with its newline: other threads print at the same time.
    print(f"{session.session_id}: {amount:+} makes {balance}\n", end="", flush=True)


@app.task
def write_to(customer: str, text: str, receipt: str) -> None:
    """Send a letter. Another process received the message, and this task completes it when the letter is sent."""
    with settle_on_success(receipt):
        print(f"{customer}: a letter, {text!r}\n", end="", flush=True)


def show() -> None:
    """Send payments and a letter, wait until they are handled, and end the worker."""
    provider, over = current_provider(app), threading.Event()
    provider.send_messages("payments", [Message(amount, session_id=customer) for customer, amount in PAYMENTS])
    provider.send_message("letters", Message("welcome", session_id="anna"))
    with provider.create_session_client("letters") as session:
        letter = session.receive_message(timeout=5)
        assert letter is not None
        write_to.delay(session.session_id, letter.text(), str(letter.receipt))
        dispatcher = Dispatcher(app)
        while any(provider.get_queue(name).active_count for name in ("payments", "letters")):
            dispatcher.dispatch()
            over.wait(0.1)
    for dead in provider.dead_letters("payments"):
        print(f"{dead.session_id}: {dead.text()!r} is {dead.dead_letter_reason}", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    worker_ready.connect(lambda **_: threading.Thread(target=show).start(), weak=False)
    app.worker_main(["--quiet", "worker", "--pool", "threads", "--concurrency", "4", "--loglevel", "ERROR"])
