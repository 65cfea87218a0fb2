"""Pauses after failures."""

from __future__ import annotations

import time

import pytest

from azsession.processor import backoff
from azsession.processor.backoff import Backoff, pause_after


@pytest.mark.parametrize(("failures", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (5000, 60.0)])
def test_a_pause_doubles_with_each_failure_and_is_at_most_halved_at_random(failures: int, longest: float) -> None:
    pauses = [pause_after(failures, 60.0) for _ in range(200)]
    assert longest / 2 <= min(pauses) < 0.6 * longest
    assert 0.9 * longest < max(pauses) <= longest


def test_a_session_is_due_after_its_pause_and_at_once_after_a_success() -> None:
    known = Backoff()
    assert known.due("a") is None
    began = time.monotonic()
    for _ in range(4):
        known.failed("a")
    ended = time.monotonic()
    due = known.due("a")
    assert due is not None
    assert due - began >= 2.0
    assert due - ended <= 4.0
    assert known.due("b") is None
    known.succeeded("a")
    assert known.due("a") is None
    known.failed("a")
    again = known.due("a")
    assert again is not None
    assert again - time.monotonic() <= 0.5


def test_only_the_latest_failed_sessions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "MAX_REMEMBERED", 2)
    known = Backoff()
    for session_id in ("a", "b", "a", "c"):
        known.failed(session_id)
    assert [known.due(session_id) is not None for session_id in ("a", "b", "c")] == [True, False, True]
