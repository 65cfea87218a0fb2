"""`SessionLock` alone: the request ids of receives, the receipts, and the messages that were fetched ahead."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import attrs
import pytest

from azsession import InvalidReceiptError, ReceiptHandle, SessionNotFoundError
from azsession.client.session_lock import SessionLock

from .received import received

T = TypeVar("T")


@pytest.fixture
def lock() -> SessionLock:
    return SessionLock("the session 's1' of 'orders'", 300)


def in_another_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(20)


def close(lock: SessionLock) -> None:
    lock.close()


def lose(lock: SessionLock) -> None:
    lock.lose(SessionNotFoundError("the lock is lost", code="SessionLockLost"))


# Request ids


def test_a_request_id_is_used_again_until_its_answer_came(lock: SessionLock) -> None:
    first, is_again = lock.request_id()
    assert not is_again
    assert lock.request_id() == (first, True)
    lock.register([], first)
    second, is_again = lock.request_id()
    assert second != first
    assert not is_again


def test_an_answer_without_a_request_id_leaves_the_ids_of_others(lock: SessionLock) -> None:
    first, _ = lock.request_id()
    lock.register([received(1)])
    assert lock.request_id() == (first, True)


def test_a_receive_that_runs_in_another_thread_keeps_its_request_id(lock: SessionLock) -> None:
    running = lock.begin_receive()
    first, _ = lock.request_id()
    other, is_again = in_another_thread(lock.request_id)
    assert other != first
    assert not is_again
    assert lock.request_id() == (first, True)
    lock.undo_receive(running)


def test_a_receive_that_failed_leaves_its_request_id_to_any_thread(lock: SessionLock) -> None:
    running = lock.begin_receive()
    first, _ = lock.request_id()
    lock.undo_receive(running)
    assert in_another_thread(lock.request_id) == (first, True)


def test_a_request_id_that_was_taken_over_belongs_to_the_receive_that_took_it(lock: SessionLock) -> None:
    lock.undo_receive(lock.begin_receive())
    ended = lock.begin_receive()
    first, _ = lock.request_id()
    lock.undo_receive(ended)
    current = lock.begin_receive()
    assert lock.request_id() == (first, True)
    other, _ = in_another_thread(lock.request_id)
    assert other != first
    assert not current.has_ended


def test_a_forgotten_request_id_is_not_used_again(lock: SessionLock) -> None:
    first, _ = lock.request_id()
    lock.forget_request("another")
    assert lock.request_id() == (first, True)
    lock.forget_request(first)
    lock.forget_request(first)
    assert lock.request_id()[0] != first


# Receives that were interrupted


def test_messages_that_an_interrupted_receive_did_not_return_come_first(lock: SessionLock) -> None:
    running = lock.begin_receive()
    request_id, _ = lock.request_id()
    lock.register([received(1), received(2)], request_id)
    lock.undo_receive(running)
    assert running.has_ended is True
    lock.register([later := received(3)])
    lock.put_ahead([later])
    assert lock.take_ahead(9) == ([received(1), received(2), later], False)
    # The answer came, so that its request id is used up.
    assert lock.request_id()[0] != request_id


def test_an_interrupted_receive_gives_back_messages_that_it_took_from_those_fetched_ahead(lock: SessionLock) -> None:
    messages = [received(1), received(2)]
    lock.register(messages)
    lock.put_ahead(messages)
    running = lock.begin_receive()
    assert lock.take_ahead(1)[0] == [received(1)]
    lock.undo_receive(running)
    assert lock.first_ahead == received(1)
    assert lock.ahead_count == 2


def test_a_batch_is_given_back_if_one_of_its_messages_is_unsettled(lock: SessionLock) -> None:
    running = lock.begin_receive()
    lock.register([received(1), received(2)], lock.request_id()[0])
    lock.forget("t1")
    lock.undo_receive(running)
    assert lock.take_ahead(9)[0] == [received(2)]


def test_an_interrupt_before_the_receipts_are_known_keeps_the_request_id(lock: SessionLock) -> None:
    running = lock.begin_receive()
    request_id, _ = lock.request_id()
    running.arrived.append((request_id, [received(1)]))
    lock.undo_receive(running)
    assert lock.ahead_count == 0
    assert lock.request_id() == (request_id, True)


def test_an_interrupt_after_the_answer_was_registered_forgets_its_request_id(lock: SessionLock) -> None:
    running = lock.begin_receive()
    request_id, _ = lock.request_id()
    # Interrupted within `register`: the receipt is known, and the request id is not forgotten yet.
    running.arrived.append((request_id, [received(1)]))
    lock._receipts["t1"] = received(1).receipt
    lock.undo_receive(running)
    assert lock.first_ahead == received(1)
    assert lock.request_id()[0] != request_id


# Receipts


def test_a_receipt_is_resolved_from_the_message_the_handle_and_the_text(lock: SessionLock) -> None:
    message = received(1)
    lock.register([message])
    for form in (message, message.receipt, str(message.receipt), ReceiptHandle("t1")):
        assert lock.resolve(form) == "t1"
    assert repr(lock.resolve(message)) == "<redacted>"


@pytest.mark.parametrize(
    "receipt",
    [
        ReceiptHandle("t2", queue_name="orders", session_id="s1"),
        ReceiptHandle("t1", queue_name="orders", session_id="s2"),
        ReceiptHandle("t1", queue_name="other", session_id="s1"),
        ReceiptHandle("t1", queue_name="orders"),
        ReceiptHandle("t1", session_id="s1"),
        ReceiptHandle("t2"),
    ],
)
def test_a_receipt_of_another_message_session_or_queue_is_refused(lock: SessionLock, receipt: ReceiptHandle) -> None:
    lock.register([received(1)])
    with pytest.raises(InvalidReceiptError) as caught:
        lock.resolve(receipt)
    assert str(caught.value) == "the receipt is not from the session 's1' of 'orders', or its message is already settled"


@pytest.mark.parametrize(("wrong", "kind"), [(None, "NoneType"), (5, "int"), (b"t1", "bytes")])
def test_a_receipt_of_another_type_is_refused_with_its_type(lock: SessionLock, wrong: Any, kind: str) -> None:
    with pytest.raises(InvalidReceiptError) as caught:
        lock.resolve(wrong)
    assert str(caught.value) == f"a receipt must be a ReceivedMessage, a ReceiptHandle, or the text of one, not {kind}"


def test_a_handed_over_lock_settles_receipts_of_its_own_session_only(lock: SessionLock) -> None:
    lock.resume("12345678-abcd", ("orders", "s1"), 60)
    assert lock.resolve(ReceiptHandle("elsewhere", queue_name="orders", session_id="s1")) == "elsewhere"
    for receipt in (
        ReceiptHandle("x", queue_name="orders", session_id="s2"),
        ReceiptHandle("x", queue_name="q", session_id="s1"),
    ):
        with pytest.raises(InvalidReceiptError):
            lock.resolve(receipt)


def test_the_tokens_of_unsettled_messages_are_in_the_order_of_arrival_and_redacted(lock: SessionLock) -> None:
    lock.register([received(2), received(1), received(3)])
    lock.forget("t1")
    lock.forget("t1")
    assert lock.tokens() == ["t2", "t3"]
    assert repr(lock.tokens()) == "[<redacted>, <redacted>]"


@pytest.mark.parametrize("end", [close, lose])
def test_an_ended_lock_has_no_receipts_and_takes_none(lock: SessionLock, end: Callable[[SessionLock], None]) -> None:
    lock.register([received(1), received(2)])
    lock.put_ahead([received(2)])
    running = lock.begin_receive()
    end(lock)
    assert (lock.tokens(), lock.ahead_count, lock.first_ahead) == ([], 0, None)
    lock.register([received(3)])
    lock.put_ahead([received(3)])
    assert (lock.tokens(), lock.ahead_count, running.arrived) == ([], 0, [])


def test_a_session_that_a_finalizer_closed_keeps_no_messages(lock: SessionLock) -> None:
    lock.register([received(1)])
    lock.abandon()
    lock.put_ahead([received(1)])
    assert lock.ahead_count == 0


# Messages that were fetched ahead


def fetched(lock: SessionLock, *numbers: int) -> None:
    messages = [received(number) for number in numbers]
    lock.register(messages)
    lock.put_ahead(messages)


def test_messages_are_kept_in_the_order_of_the_queue_and_once_each(lock: SessionLock) -> None:
    fetched(lock, 3, 4)
    fetched(lock, 1, 2, 3)
    assert lock.first_ahead == received(1)
    assert lock.ahead_count == 4
    assert [message.sequence_number for message in lock.take_ahead(3)[0]] == [1, 2, 3]
    assert [message.sequence_number for message in lock.take_ahead(3)[0]] == [4]
    assert lock.take_ahead(3) == ([], True)


def test_messages_of_a_server_without_sequence_numbers_keep_their_order(lock: SessionLock) -> None:
    # The decoder gives 0; a message without any number must not fail either.
    messages = [received(2, sequence_number=0), attrs.evolve(received(1), sequence_number=None)]  # type: ignore[arg-type]
    lock.register(messages)
    lock.put_ahead(messages)
    assert lock.take_ahead(9)[0] == messages


def test_a_message_that_was_settled_is_not_kept(lock: SessionLock) -> None:
    lock.register([received(1), received(2)])
    lock.forget("t1")
    lock.put_ahead([received(1), received(2)])
    assert lock.take_ahead(9)[0] == [received(2)]


def test_a_message_is_in_use_from_when_it_is_handed_out_until_it_is_settled(lock: SessionLock) -> None:
    fetched(lock, 1, 2, 3)
    assert lock.take_ahead(1) == ([received(1)], False)
    assert lock.take_ahead(1) == ([received(2)], True)
    lock.forget("t1")
    lock.forget("t2")
    assert lock.take_ahead(1) == ([received(3)], False)


def test_another_process_with_the_same_lock_may_use_messages(lock: SessionLock) -> None:
    lock.is_shared = True
    fetched(lock, 1)
    assert lock.take_ahead(1) == ([received(1)], True)


def test_all_messages_are_moved_to_the_end_of_the_list(lock: SessionLock) -> None:
    fetched(lock, 2, 3)
    into = [received(1)]
    lock.take_all_ahead(into)
    assert into == [received(1), received(2), received(3)]
    assert lock.ahead_count == 0
