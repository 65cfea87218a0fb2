"""AMQP 1.0, as far as Azure Service Bus needs it."""
