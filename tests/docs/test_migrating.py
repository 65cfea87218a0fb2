"""docs/migrating.md has every public name of azure-servicebus."""

from __future__ import annotations

import azure.servicebus
import pytest
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSession,
    exceptions,
)

from ..support.paths import ROOT

PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
CLASSES = [
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSession,
]


def names() -> list[str]:
    found = {*azure.servicebus.__all__}
    found |= {
        name for name, each in vars(exceptions).items() if isinstance(each, type) and each.__module__ == exceptions.__name__
    }
    found -= {name for name in found if name.startswith("_")}
    for cls in CLASSES:
        found |= {name for name in dir(cls) if not name.startswith("_")}
    return sorted(found)


@pytest.mark.parametrize("name", names())
def test_the_page_has_a_name_of_azure_servicebus(name: str) -> None:
    assert name in PAGE
