"""`ProviderCore`: where the server is, and sessions that are accepted while the provider closes."""

from __future__ import annotations

from pathlib import Path

from azsession import (
    ServiceBusProvider,
)


def test_the_repr_says_where_the_messages_are(tmp_path: Path) -> None:
    provider = ServiceBusProvider.embedded()
    assert repr(provider) == "<ServiceBusProvider embedded in memory>"
    provider.close()
    assert repr(provider) == "<ServiceBusProvider embedded in memory, closed>"
    with ServiceBusProvider.embedded(tmp_path / "data.db") as provider:
        assert repr(provider) == f"<ServiceBusProvider embedded on {tmp_path / 'data.db'}>"
