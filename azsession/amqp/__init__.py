"""AMQP 1.0 without I/O: values, frames and messages."""
