"""Dead letters where answers are lost on the way: the retry does nothing twice."""

from __future__ import annotations

from azsession import Message, ServiceBusProvider

from .test_retry_lost_answers import CuttingProxy, cut_provider, cutter

__all__ = ["cut_provider", "cutter"]


def dead_letter(provider: ServiceBusProvider, *bodies: str) -> list[int]:
    provider.send_messages("orders", [Message(body, session_id="s1") for body in bodies])
    with provider.create_session_client("orders", "s1") as session:
        session.dead_letter_session("bad")
    return [message.sequence_number for message in provider.dead_letters("orders")]


def bodies(provider: ServiceBusProvider) -> list[str]:
    return [message.text() for message in provider.peek_messages("orders", "s1")]


def test_a_dead_letter_whose_resubmitting_was_not_answered_is_sent_once(
    cut_provider: ServiceBusProvider, cutter: CuttingProxy
) -> None:
    (number,) = dead_letter(cut_provider, "a")
    cutter.cut_answers(1)
    cut_provider.resubmit("orders", number)
    assert (bodies(cut_provider), cut_provider.dead_letters("orders")) == (["a"], [])


def test_the_dead_letters_of_a_session_are_sent_once_each(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
    dead_letter(cut_provider, "a", "b")
    cutter.cut_answers(2)
    assert cut_provider.resubmit_session("orders", "s1") == 2
    assert bodies(cut_provider) == ["a", "b"]


def test_a_deletion_whose_answer_was_lost_succeeds(cut_provider: ServiceBusProvider, cutter: CuttingProxy) -> None:
    (number,) = dead_letter(cut_provider, "a")
    cutter.cut_answers(1)
    cut_provider.delete_dead_letter("orders", number)
    assert cut_provider.dead_letters("orders") == []
