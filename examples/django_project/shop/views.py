"""Views that place orders, and views in which people take messages in one request and settle them in another."""

from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from azsession import InvalidReceiptError, Message, NoSessionAvailableError, SessionClient
from azsession.contrib.django import get_provider, send_on_commit

from .models import Order

#: Sessions whose messages this process has handed out. They are kept until their locks expire or the process ends.
handed_out: set[SessionClient] = set()


def place_order(item: str, *steps: str) -> Order:
    """Store an order and send its steps in order. If the transaction is rolled back, neither happens."""
    with transaction.atomic():
        order = Order.objects.create(item=item)
        send_on_commit("orders", [Message(step, session_id=f"order-{order.pk}") for step in steps])
    return order


@csrf_exempt
@require_POST
def place(request: HttpRequest) -> JsonResponse:
    order = place_order(request.POST["item"], "paid", "packed", "shipped")
    return JsonResponse({"order": order.pk}, status=201)


@csrf_exempt
@require_POST
def take(request: HttpRequest, queue: str) -> HttpResponse:
    """Hand out the messages of the next session. No other client gets the session until its lock expires."""
    for each in list(handed_out):
        if each.is_lock_lost:
            handed_out.discard(each)
    try:
        session = get_provider().create_session_client(queue, auto_renew=False, accept_timeout=1)
    except NoSessionAvailableError:
        return HttpResponse(status=204)
    handed_out.add(session)
    messages: list[dict[str, Any]] = [
        {"body": message.text(), "id": message.message_id, "receipt": str(message.receipt)}
        for message in session.receive_messages(100, timeout=0)
    ]
    return JsonResponse({"session": session.session_id, "messages": messages})


@csrf_exempt
@require_POST
def settle(request: HttpRequest) -> HttpResponse:
    """Complete a message by its receipt. Another process may have handed it out."""
    receipt = request.POST["receipt"]
    try:
        with get_provider().session_from_receipt(receipt) as session:
            session.complete_message(receipt)
    except InvalidReceiptError as error:
        return HttpResponse(str(error), status=410, content_type="text/plain")
    return HttpResponse(status=204)
