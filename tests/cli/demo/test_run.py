"""The run of the demo."""

from __future__ import annotations

from collections import Counter

import pytest

from azsession.cli.demo.data import Roles, from_messages
from azsession.cli.demo.run import Run
from azsession.cli.demo.verdict import judge

from .helpers import message, small


def test_the_record_of_a_run_is_complete() -> None:
    sent, roles = small()
    record = Run(sent, roles, 3).run()
    assert judge(sent, roles, record) == []
    assert len(record.deliveries) == 21
    assert Counter(delivery.outcome for delivery in record.deliveries) == {
        "completed": 19,
        "abandoned": 1,
        "dead-lettered": 1,
    }
    assert record.leftover.active == record.leftover.listed == 0
    assert [letter.body for letter in record.leftover.dead_letters] == [sent[13].body]


def test_a_run_with_one_worker_and_one_message_succeeds() -> None:
    sent = from_messages([message("only")])
    assert judge(sent, Roles(), Run(sent, Roles(), 1).run()) == []


def test_a_run_ignores_the_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    sent, roles = small()
    assert judge(sent, roles, Run(sent, roles, 2).run()) == []


def test_a_run_raises_the_message_size_limit_for_large_messages() -> None:
    sent = from_messages([message("large", text="x" * 3_000_000)])
    assert judge(sent, Roles(), Run(sent, Roles(), 1).run()) == []
