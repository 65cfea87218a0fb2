"""An order and its steps."""

from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    status = models.CharField(max_length=20, default="placed")


class Step(models.Model):
    """A recorded step. Its message id is unique, because a message can be redelivered after it was handled."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="steps")
    message_id = models.CharField(max_length=128, unique=True)
    what = models.CharField(max_length=20)
