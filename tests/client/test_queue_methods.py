"""Scheduling, cancelling and purging where answers are lost on the way: the retry does nothing twice."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from azsession import Message, ProviderError, ServiceBusProvider

from .test_retry_lost_answers import CuttingProxy, cut_provider, cutter

__all__ = ["cut_provider", "cutter"]


def messages(*bodies: str) -> list[Message]:
    return [Message(body, session_id="s1") for body in bodies]


def test_messages_whose_scheduling_was_not_answered_are_scheduled_once(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy
) -> None:
    cutter.cut_answers(2)
    numbers = cut_provider.schedule_messages("orders", messages("a", "b"), datetime.now(timezone.utc) + timedelta(hours=1))
    assert [message.sequence_number for message in cut_provider.peek_messages("orders", "s1")] == numbers


def test_a_cancel_whose_answer_was_lost_succeeds(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
    numbers = cut_provider.schedule_messages("orders", messages("a"), datetime.now(timezone.utc) + timedelta(hours=1))
    cutter.cut_answers(1)
    cut_provider.cancel_scheduled_messages("orders", numbers)
    with pytest.raises(ProviderError):
        cut_provider.cancel_scheduled_messages("orders", numbers)


def test_a_purge_whose_answer_was_lost_counts_its_messages(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
    cut_provider.send_messages("orders", messages("a", "b", "c"))
    cutter.cut_answers(1)
    assert cut_provider.purge("orders", "s1") == 3
