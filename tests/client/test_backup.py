"""`ServiceBusProvider.backup` writes a checked file, or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from azsession import Message, ProviderError, ServiceBusProvider, ValidationError
from azsession.errors import ConfigurationError

from .server_responses import answered
from .test_retry_lost_answers import CuttingProxy, cut_provider, cutter

__all__ = ["cut_provider", "cutter"]


@pytest.fixture
def provider() -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.embedded() as provider:
        provider.send_message("orders", Message("a", session_id="s1"))
        yield provider


def files(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


def test_an_embedded_provider_starts_from_a_backup(provider: ServiceBusProvider, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    assert provider.backup(target) == target.stat().st_size
    with ServiceBusProvider.embedded(target) as restored:
        assert [one.text() for one in restored.peek_messages("orders", "s1")] == ["a"]


def test_an_existing_file_is_kept_unless_it_may_be_replaced(provider: ServiceBusProvider, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=str(target)):
        provider.backup(target)
    assert target.read_bytes() == b"precious"
    provider.backup(str(target), overwrite=True)
    assert target.read_bytes()[:6] == b"SQLite"
    assert files(tmp_path) == ["copy.db"]


@pytest.mark.parametrize("wrong", ["", "a\0b", 5])
def test_a_path_that_is_none_is_refused(provider: ServiceBusProvider, wrong: str) -> None:
    with pytest.raises(ValidationError, match="path must be the path of a file"):
        provider.backup(wrong)


def test_a_closed_provider_makes_no_backup(tmp_path: Path) -> None:
    provider = ServiceBusProvider.embedded()
    provider.close()
    with pytest.raises(ConfigurationError, match="closed"):
        provider.backup(tmp_path / "copy.db")
    assert files(tmp_path) == []


@pytest.mark.parametrize("body", [b"", b"rubbish", b"SQLite format 3\0" + bytes(4080)])
def test_a_body_that_is_no_data_file_leaves_nothing(tmp_path: Path, body: bytes) -> None:
    headers = {"Azsession-Protocol": "1", "Content-Type": "application/vnd.sqlite3"}
    with answered(200, body, headers) as (provider, _), pytest.raises(ProviderError, match="the backup cannot be used"):
        provider.backup(tmp_path / "copy.db")
    assert files(tmp_path) == []


def test_a_backup_whose_answer_is_cut_off_is_made_again(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy, tmp_path: Path
) -> None:
    cut_provider.send_message("orders", Message(os.urandom(300_000), session_id="s1"))
    cutter.cut_answers(1, after=3)
    target = tmp_path / "copy.db"
    size = cut_provider.backup(target)
    assert size == target.stat().st_size > 300_000
    assert files(tmp_path) == ["copy.db"]
