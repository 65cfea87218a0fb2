"""The names and attributes of the semantic conventions."""

from __future__ import annotations

import json

import pytest

from azsession import ProviderError, SessionNotFoundError
from azsession.telemetry.conventions import error_type, operation_attributes


@pytest.mark.parametrize("name", ["news/subscriptions/all", "news/Subscriptions/all"])
def test_a_subscription_has_an_attribute_of_its_own(name: str) -> None:
    span_name, attributes = operation_attributes("receive", "receive", name, "host", 5671)
    assert span_name == "receive news"
    assert attributes == {
        "messaging.system": "servicebus",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "news",
        "messaging.destination.subscription.name": "all",
        "server.address": "host",
        "server.port": 5671,
    }


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (SessionNotFoundError("x"), "SessionLockLost"),
        (ProviderError("x", code="QuotaExceeded"), "QuotaExceeded"),
        # A code that is not the protocol's could be any text.
        (ProviderError("x", code="a7f3"), "InternalError"),
        (ValueError("x"), "ValueError"),
        (json.JSONDecodeError("x", "", 0), "json.decoder.JSONDecodeError"),
    ],
)
def test_the_type_of_an_error_has_few_values(error: Exception, name: str) -> None:
    assert error_type(error) == name
