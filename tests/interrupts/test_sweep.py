"""Every public call, interrupted at line after line. Afterwards the call works, and no message or lock was lost or overtaken.

Each call is interrupted at some of its lines. With the variable ``AZSESSION_FULL_SWEEP=1`` it is interrupted at every line.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

from azsession import Message, NoSessionAvailableError, ServiceBusProvider, SessionClient
from azsession.client import receiving, settling
from azsession.client.cancellation import PendingCalls
from azsession.client.holder import LockOptions
from azsession.client.provider import core_of
from azsession.client.session import holder_of
from azsession.processor.backoff import Backoff
from azsession.processor.options import ProcessorOptions
from azsession.processor.session_runner import SessionRunner
from azsession.processor.sources import TakenSession
from azsession.processor.stats import StatsCounters

from ..api.conftest import Arrangement
from ..conftest import eventually
from .sweep import BytecodeInterrupter, Context, Interrupter, again, first, receive, steps

Scenario = Callable[[Context], None]


def receive_one(context: Context) -> None:
    session = receive(context)
    message = context.interrupt(lambda: session.receive_message(timeout=20))
    if message is not None:
        assert message.text() == "0"
        session.complete_message(message)
    context.check_rest(session, *("0", "1", "2")[message is not None :])


def receive_many(context: Context) -> None:
    session = receive(context)
    messages = context.interrupt(lambda: session.receive_messages(2, timeout=20)) or []
    assert [message.text() for message in messages] == ["0", "1"][: len(messages)]
    session.complete_messages(messages)
    context.check_rest(session, *("0", "1", "2")[len(messages) :])


def iterate(context: Context) -> None:
    session = receive(context)
    messages = session.messages(timeout=20, prefetch=3)
    message = context.interrupt(lambda: next(messages))
    if message is not None:
        assert message.text() == "0"
        session.complete_message(message)
    context.check_rest(session, *("0", "1", "2")[message is not None :])


def receive_fetched_ahead(context: Context) -> None:
    session = receive(context)
    session.complete_message(next(session.messages(timeout=20, prefetch=3)))
    message = context.interrupt(lambda: session.receive_message(timeout=20))
    if message is not None:
        session.complete_message(message)
    context.check_rest(session, *("1", "2")[message is not None :])


def complete(context: Context) -> None:
    session = receive(context)
    message = first(session)
    context.interrupt(lambda: session.complete_message(message))
    again(lambda: session.complete_message(message))
    context.check_rest(session, "1", "2")


def complete_in_loop(context: Context) -> None:
    session = receive(context)
    messages = session.messages(timeout=20, prefetch=2)
    session.complete_message(next(messages))
    last = next(messages)
    # This also fetches the third message.
    context.interrupt(lambda: session.complete_message(last))
    again(lambda: session.complete_message(last))
    context.check_rest(session, "2")


def complete_and_close(context: Context) -> None:
    session = receive(context)
    message = first(session)
    is_done = context.interrupt(lambda: settling.settle_and_close(holder_of(session), message) or True)
    session.close()
    other = context.open()
    found = context.rest(other)
    assert found in ([["1", "2"]] if is_done else [["1", "2"], ["0", "1", "2"]]), context.interrupter.where
    context.check_rest(other)


def complete_many(context: Context) -> None:
    session = receive(context)
    messages = session.receive_messages(2, timeout=20)
    context.interrupt(lambda: session.complete_messages(messages))
    for message in messages:
        again(lambda message=message: session.complete_message(message))
    context.check_rest(session, *("0", "1", "2")[len(messages) :])


def abandon(context: Context) -> None:
    session = receive(context)
    message = first(session)
    context.interrupt(lambda: session.abandon_message(message))
    again(lambda: session.abandon_message(message))
    context.check_rest(session, "0", "1", "2")


def abandon_with_messages_ahead(context: Context) -> None:
    session = receive(context)
    message = next(session.messages(timeout=20, prefetch=3))
    context.interrupt(lambda: session.abandon_message(message))
    again(lambda: session.abandon_message(message))
    context.check_rest(session, "0", "1", "2")


def defer(context: Context) -> None:
    session = receive(context)
    message = first(session)
    context.interrupt(lambda: session.defer_message(message))
    again(lambda: session.defer_message(message))
    assert message.sequence_number is not None
    deferred = session.receive_deferred_messages([message.sequence_number])
    assert [each.text() for each in deferred] == ["0"]
    session.complete_messages(deferred)
    context.check_rest(session, "1", "2")


def receive_deferred(context: Context) -> None:
    session = receive(context)
    message = first(session)
    session.defer_message(message)
    numbers = [message.sequence_number or 0]
    context.interrupt(lambda: session.receive_deferred_messages(numbers))
    deferred = session.receive_deferred_messages(numbers)
    assert [each.text() for each in deferred] == ["0"]
    session.complete_messages(deferred)
    context.check_rest(session, "1", "2")


def dead_letter(context: Context) -> None:
    session = receive(context)
    message = first(session)
    context.interrupt(lambda: session.dead_letter_message(message, "why"))
    again(lambda: session.dead_letter_message(message, "why"))
    context.check_rest(session, "1", "2")


def renew(context: Context) -> None:
    session = receive(context)
    message = first(session)
    context.interrupt(session.renew_session_lock)
    session.renew_session_lock()
    session.complete_message(message)
    context.check_rest(session, "1", "2")


def keep_state(context: Context) -> None:
    session = receive(context)
    context.interrupt(lambda: session.set_session_state(b"1"))
    session.set_session_state(b"2")
    assert session.get_session_state() == b"2"
    session.set_session_state(None)
    context.check_rest(session, "0", "1", "2")


def send(context: Context) -> None:
    message = Message("0", session_id=context.session_id)
    was_sent = context.interrupt(lambda: context.provider.send_message(context.queue, message)) is not None
    context.send("1")
    session = context.open()
    found = context.rest(session)
    assert found in ([["0", "1"]] if was_sent else [["1"], ["0", "1"]]), context.interrupter.where
    context.check_rest(session)


def accept(context: Context) -> None:
    context.send("0", "1", "2")
    session = context.interrupt(lambda: context.provider.create_session_client(context.queue, accept_timeout=20))
    if session is None:
        session = context.provider.create_session_client(context.queue, accept_timeout=20)
    assert session.session_id == context.session_id
    context.check_rest(session, "0", "1", "2")


def accept_with_messages(context: Context) -> None:
    context.send("0", "1", "2")

    def call() -> SessionClient | None:
        return core_of(context.provider).accept_next(context.queue, LockOptions(30), 20, PendingCalls(), prefetch=2)

    session = context.interrupt(call) or call()
    assert session is not None
    assert session.session_id == context.session_id
    ahead = receiving.next_ahead(holder_of(session))
    if ahead is not None:  # Azure sends messages a moment later.
        assert ahead.text() == "0"
        session.complete_message(ahead)
    context.check_rest(session, *("0", "1", "2")[ahead is not None :])


def accept_nothing(context: Context) -> None:
    def call() -> None:
        with pytest.raises(NoSessionAvailableError):
            context.provider.create_session_client(context.queue, accept_timeout=0)

    context.interrupt(call)
    call()
    # The interrupted call can have been granted a session, for all that the client knows. It looks in the background.
    eventually(lambda: "azsession-give-back" not in [each.name for each in threading.enumerate()])
    context.check_rest(receive(context), "0", "1", "2")


def browse(context: Context) -> None:
    context.send("0", "1", "2")

    def call() -> None:
        assert len(context.provider.peek_messages(context.queue, context.session_id)) == 3
        assert context.session_id in [each.session_id for each in context.provider.list_sessions(context.queue)]

    context.interrupt(call)
    call()
    context.check_rest(context.open(), "0", "1", "2")


def close(context: Context) -> None:
    session = receive(context)
    first(session)
    context.interrupt(session.close)
    session.close()
    context.check_rest(context.open(), "0", "1", "2")


def handle_and_settle_in_background(context: Context) -> None:
    """As a Celery task does it, which handles its session in the main thread."""
    handled: list[str] = []
    session = receive(context)
    options = ProcessorOptions(
        queue_name=context.queue,
        handler=lambda message, _: handled.append(message.text()),
        settle_in_background=1,
        on_error=lambda *_: None,
    )
    runner = SessionRunner(options, Backoff(), StatsCounters(), delays=False)
    context.interrupt(lambda: runner.handle(TakenSession(session)))
    session.close()
    for thread in runner.end():
        thread.join(20)
    with context.open() as other:
        rest = context.rest(other)
    # No message overtook another one, or was completed without being handled.
    assert rest == ["0", "1", "2"][3 - len(rest) :], context.interrupter.where
    assert handled == ["0", "1", "2"][: len(handled)], context.interrupter.where
    assert len(handled) + len(rest) >= 3, context.interrupter.where
    context.check_rest(context.open())


SCENARIOS: list[Scenario] = [
    receive_one, receive_many, iterate, receive_fetched_ahead, complete, complete_in_loop, complete_and_close, complete_many,
    abandon, abandon_with_messages_ahead, defer, receive_deferred, dead_letter, renew, keep_state, send, accept,
    accept_with_messages, accept_nothing, browse, close,
    handle_and_settle_in_background,
]  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        Interrupter,
        pytest.param(
            BytecodeInterrupter,
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 handles signals before most instructions"),
        ),
    ],
    ids=["line", "bytecode"],
)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_call_can_be_interrupted_anywhere(
    provider: ServiceBusProvider, queue: str, scenario: Scenario, kind: type[Interrupter]
) -> None:
    scenario(Context(provider, queue, 0))  # The first call opens connections and starts threads.
    whole = Context(provider, queue, 0, kind)
    scenario(whole)
    assert whole.interrupter.lines > 10
    for at in steps(whole.interrupter.lines):
        context = Context(provider, queue, at, kind)
        try:
            scenario(context)
        except BaseException as error:
            error.add_note(f"interrupted at {context.interrupter.where}") if hasattr(error, "add_note") else None
            raise


def test_closing_a_provider_can_be_interrupted_at_any_line(arrangement: Arrangement, queue: str) -> None:
    def close(at: int) -> int:
        provider = arrangement.provider()
        context = Context(provider, queue, at)
        session = receive(context)
        first(session)
        interrupter = Interrupter(at)
        interrupter.run(provider.close)
        provider.close()
        with arrangement.provider() as again:
            context.provider = again
            context.check_rest(context.open(), "0", "1", "2")
        return interrupter.lines

    for at in steps(close(0)):
        close(at)
    names = ("azsession-renewer", "azsession-amqp")
    eventually(lambda: not [each for each in threading.enumerate() if each.name in names])
