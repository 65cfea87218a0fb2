"""Azure does not answer an attach or the check of a session: the broker gives the link up, and tries another one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from azsession import (
    ConnectionFailedError,
)
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import Disposition

from ....conftest import eventually
from ....namespaces import Namespace
from ..holders import QUEUE, Holder, broker_on, completed, held_again, send


@pytest.fixture
def hasty(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureBroker]:
    """A broker with short timeouts."""
    monkeypatch.setattr("azsession.broker.azure.session.relock.VERIFY_TIMEOUT", 0.3)
    monkeypatch.setattr("azsession.broker.azure.session.opening.ANSWER_TIME", 0.2)
    with broker_on(namespace, request_timeout=2.0) as broker:
        yield broker


def test_an_attach_that_is_not_answered_is_given_up(namespace: Namespace, hasty: AzureBroker) -> None:
    holder = Holder(hasty)
    send(hasty, "a")
    namespace.swallow("attach")
    with pytest.raises(ConnectionFailedError):
        holder.receive()
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    (a,) = Holder(hasty).take()
    assert holder.complete(a) == [None]


def test_an_attach_for_any_session_that_is_not_answered_is_given_up(namespace: Namespace, hasty: AzureBroker) -> None:
    send(hasty, "a")
    namespace.swallow("attach")
    with pytest.raises(ConnectionFailedError):
        Holder(hasty).accept_next(timeout=0.1)
    eventually(lambda: not namespace.locked_sessions(QUEUE))
    assert Holder(hasty).accept_next() == "s1"


def test_an_unanswered_attach_is_repeated_after_the_link_was_lost(namespace: Namespace, hasty: AzureBroker) -> None:
    holder = Holder(hasty)
    send(hasty, "a")
    (a,) = holder.take()
    namespace.swallow("attach")
    namespace.detach_links(QUEUE)
    held_again(namespace, holder)
    assert holder.complete(a) == [None]


def test_an_unanswered_check_of_the_state_is_repeated_by_another_link(namespace: Namespace, hasty: AzureBroker) -> None:
    holder = Holder(hasty)
    holder.receive(timeout=0)
    hasty.set_state(*holder.whose, b"1").result()
    namespace.swallow("get-session-state")
    namespace.detach_links(QUEUE)
    held_again(namespace, holder)
    assert holder.renew() > 0


def test_messages_that_came_during_an_unanswered_check_are_handed_out_once(namespace: Namespace, hasty: AzureBroker) -> None:
    holder = Holder(hasty)
    send(hasty, "a", "b")
    a, b = holder.take(2)
    hasty.set_state(*holder.whose, b"1").result()
    assert holder.settle(a, how=Disposition.ABANDON) == [None]
    namespace.swallow("get-session-state")
    namespace.detach_links(QUEUE)
    held_again(namespace, holder)
    (again,) = holder.take()
    assert again.text() == "a"
    assert holder.receive(timeout=0) == []
    assert holder.complete(again, b) == [None, None]
    assert completed(namespace) == ["a", "b"]
