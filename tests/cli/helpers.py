"""Helpers of the tests of `azsession serve`."""

from __future__ import annotations

from azsession import ServiceBusConfig

#: A key that must not be shown.
SECRET = "dGhpcy1pcy1hLXNlY3JldA=="


def key_of(connection_string: str) -> str:
    """Return the key in a connection string."""
    credentials = ServiceBusConfig(connection_string=connection_string).credentials
    assert credentials is not None
    assert credentials.key
    return credentials.key
