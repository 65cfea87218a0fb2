"""An order, and what was done about it."""

from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    status = models.CharField(max_length=20, default="placed")


class Step(models.Model):
    """Something that was done, once each: a message may come again where its handler could not tell that it was done."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="steps")
    message_id = models.CharField(max_length=128, unique=True)
    what = models.CharField(max_length=20)
