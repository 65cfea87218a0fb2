"""The handler for the steps of an order. It is called for many orders at once, and in order for each."""

from django.db import transaction

from azsession import DeadLetter, ReceivedMessage, SessionClient

from .models import Order, Step


def handle(message: ReceivedMessage, session: SessionClient) -> None:
    """Record a step of an order. When this returns, the message is completed. If it raises, the message is redelivered."""
    what, order = message.text(), session.session_id.removeprefix("order-")
    with transaction.atomic():
        if not Order.objects.filter(pk=order).update(status=what):
            raise DeadLetter("there is no such order")
        Step.objects.get_or_create(message_id=message.message_id, defaults={"order_id": order, "what": what})
