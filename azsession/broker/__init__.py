"""Brokers: the engines that keep messages. `base.Broker` is their interface."""
