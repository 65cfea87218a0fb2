"""`manage.py demo`: places orders, and consumes the queue until all orders are shipped."""

import time
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.test import Client

from azsession import SessionProcessor
from azsession.contrib.django import closing_connections, get_provider
from shop.handlers import handle
from shop.models import Order


class Command(BaseCommand):
    help = "Places orders, and consumes the queue until all orders are shipped."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", verbosity=0)
        browser = Client()
        placed = [browser.post("/place/", {"item": item}).json()["order"] for item in ("tea", "coffee", "cocoa")]
        with SessionProcessor(get_provider(), "orders", closing_connections(handle)):
            while Order.objects.filter(pk__in=placed).exclude(status="shipped").exists():
                time.sleep(0.05)
        for order in Order.objects.filter(pk__in=placed).order_by("pk"):
            steps = ", ".join(order.steps.order_by("pk").values_list("what", flat=True))
            self.stdout.write(f"order {order.pk}, {order.item}: {steps}")
