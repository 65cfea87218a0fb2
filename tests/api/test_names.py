"""Session ids and entity names: every name that Azure accepts works in each arrangement."""

from __future__ import annotations

import time

import pytest

from azsession import (
    AuthenticationFailedError,
    Message,
    ReceiptHandle,
    ServiceBusProvider,
    SessionProcessor,
    ValidationError,
)
from azsession.protocol.routes import session_path

from .conftest import Arrangement, left, send, take, take_many

#: Session ids that a URL path cannot carry, that a proxy would change, or that look like a part of a path.
SESSION_IDS = [
    "",
    ".",
    "..",
    " ",
    "/",
    "//",
    "a//b",
    "a/../b",
    "/a",
    "a/",
    "\x00",
    "\r\n",
    "a\x1b[2Jb",
    "\x7f\x85",
    "\\",
    "%2F",
    "%",
    "~",
    "~YQ",
    "$sessions",
    "$sessions/~YQ",
    session_path("q", "..", escaped=True).rpartition("/")[2],
    "messages/head",
    "x/renewlock",
    "a?b#c&d=e",
    "+",
    "état",
    "é" * 128,
    "😀",
    "\u2028\ufeff",
    "x" * 128,
]


def test_any_session_id_is_sent_listed_received_and_settled(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message(repr(name), session_id=name) for name in SESSION_IDS for _ in range(2)])
    assert sorted(info.session_id for info in provider.list_sessions(queue)) == sorted(SESSION_IDS)
    for name in SESSION_IDS:
        assert [message.session_id for message in provider.peek_messages(queue, name)] == [name] * 2
        with provider.create_session_client(queue, name) as session:
            first, second = take_many(session, 2)
            assert (first.session_id, first.text()) == (name, repr(name))
            session.complete_message(first)
            session.set_session_state(name.encode() or b"empty")
            assert session.get_session_state() == (name.encode() or b"empty")
            session.renew_session_lock()
            session.complete_message(str(second.receipt))
        assert left(provider, queue, name) == []
    assert sorted(info.session_id for info in provider.list_sessions(queue)) == sorted(SESSION_IDS)


def test_any_session_can_be_the_next_available_one(provider: ServiceBusProvider, queue: str) -> None:
    provider.send_messages(queue, [Message("x", session_id=name) for name in SESSION_IDS])
    seen = []
    for _ in SESSION_IDS:
        with provider.create_session_client(queue, accept_timeout=10) as session:
            seen.append(session.session_id)
            session.complete_message(take(session))
    assert sorted(seen) == sorted(SESSION_IDS)


@pytest.mark.parametrize("name", ["", "..", "\x00/", "a//b"], ids=["empty", "dots", "NUL", "slashes"])
def test_a_receipt_of_any_session_settles_it_from_another_client(provider: ServiceBusProvider, queue: str, name: str) -> None:
    send(provider, queue, "a", "b", session_id=name)
    with provider.create_session_client(queue, name) as session:
        text = str(take(session).receipt)
        assert ReceiptHandle.parse(text).session_id == name
        with provider.session_from_receipt(text) as other:
            other.complete_message(text)
        session.dead_letter_session("enough")
    assert [message.session_id for message in provider.dead_letters(queue)] == [name]


def test_a_processor_handles_named_sessions_with_any_id(provider: ServiceBusProvider, queue: str) -> None:
    names = ["", "..", "\x00", "s"]
    provider.send_messages(queue, [Message("x", session_id=name) for name in names])
    seen = []
    processor = SessionProcessor(provider, queue, lambda message, session: seen.append(session.session_id), session_ids=names)
    with processor:
        deadline = time.monotonic() + 20
        while len(seen) < len(names) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert sorted(seen) == sorted(names)


@pytest.mark.parametrize("name", ["x" * 129, "\ud800"], ids=["long", "surrogate"])
def test_a_session_id_that_is_too_long_or_not_unicode_is_refused(provider: ServiceBusProvider, queue: str, name: str) -> None:
    for call in (
        lambda: Message("x", session_id=name),
        lambda: provider.create_session_client(queue, name),
        lambda: provider.peek_messages(queue, name),
    ):
        with pytest.raises(ValidationError, match="session id"):
            call()


#: Names with slashes, among them those whose parts are words of the protocol's paths.
ENTITIES = [
    "site1/orders",
    "a/b/c/d",
    "a/messages",
    "a/sessions",
    "sessions/sessions/messages/messages",
    "healthz",
    "a/messages/head",
    "site1/events/subscriptions/audit",
    "messages/subscriptions/sessions",
    "x/" + "y" * 258,
]


@pytest.mark.parametrize("name", ENTITIES, ids=[name[:40] for name in ENTITIES])
def test_an_entity_name_can_have_slashes(arrangement: Arrangement, provider: ServiceBusProvider, name: str) -> None:
    topic, _, subscription = name.partition("/subscriptions/")
    if subscription and not arrangement.is_azure:
        topic = name
    arrangement.queue(name)
    if arrangement.is_own_endpoint and "sessions" in topic.split("/")[1:]:
        # The plain name in a token of Azure's form could be that of a session of another queue, see `entity_resources`.
        with pytest.raises(AuthenticationFailedError, match="refused the token"):
            provider.send_message(topic, Message("a", session_id="s/1"))
        return
    send(provider, topic, "a", "b", "c", session_id="s/1")
    assert [info.session_id for info in provider.list_sessions(name)] == ["s/1"]
    with provider.create_session_client(name, "s/1") as session:
        first, second = take_many(session, 2)
        session.complete_message(first)
        session.set_session_state(b"state")
        session.dead_letter_message(second, "bad")
    assert left(provider, name, "s/1") == ["c"]
    with provider.create_session_client(name, accept_timeout=10) as session:
        assert take(session).text() == "c"
    dead = provider.dead_letters(name)
    assert [message.text() for message in dead] == ["b"]
    provider.delete_dead_letter(name, dead[0].sequence_number)
    if not arrangement.is_azure:
        assert provider.get_queue(name).name == name
        provider.delete_queue(name)
        assert provider.list_queues() == []
