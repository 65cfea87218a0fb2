"""Backups: of the embedded broker they are files to start from, and Azure has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from azsession import ServiceBusProvider, UnsupportedOperationError

from .conftest import Arrangement, send


def test_a_backup_has_the_messages_of_all_queues(arrangement: Arrangement, tmp_path: Path) -> None:
    first, second = arrangement.queue(), arrangement.queue()
    provider = arrangement.provider()
    send(provider, first, "a", "b")
    send(provider, second, "c")
    target = tmp_path / "backup.db"
    if arrangement.is_azure:
        with pytest.raises(UnsupportedOperationError, match="Azure keeps its messages"):
            provider.backup(target)
        assert list(tmp_path.iterdir()) == []
        return
    provider.backup(target)
    with ServiceBusProvider.embedded(target) as restored:
        assert [one.text() for one in restored.peek_messages(first, "s1")] == ["a", "b"]
        assert [one.text() for one in restored.peek_messages(second, "s1")] == ["c"]
