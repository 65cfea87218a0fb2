"""What is done about an order: called for one message of it after the other, and for many orders at once."""

from django.db import transaction

from azsession import DeadLetter, ReceivedMessage, SessionClient

from .models import Order, Step


def handle(message: ReceivedMessage, session: SessionClient) -> None:
    """Note a step of an order. The message is completed when this returns, and comes again where it raises."""
    what, order = message.text(), session.session_id.removeprefix("order-")
    with transaction.atomic():
        if not Order.objects.filter(pk=order).update(status=what):
            raise DeadLetter("there is no such order")
        Step.objects.get_or_create(message_id=message.message_id, defaults={"order_id": order, "what": what})
