"""Azure grants a session of this process to an accept of this process, when the link of the session ended."""

from __future__ import annotations

import pytest

from azsession import (
    SessionNotFoundError,
)
from azsession.broker.azure import AzureBroker

from ....conftest import eventually
from ....namespaces import Namespace
from ..holders import QUEUE, Holder, in_thread, send, texts, waiting_accepts


def test_a_session_that_lost_its_link_is_not_given_to_an_accept_of_the_same_process(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder = Holder(broker)
    send(broker, "a", "b")
    (a,) = holder.take()
    others = [Holder(broker) for _ in range(3)]
    accepting = [in_thread(one.accept_next) for one in others]
    eventually(lambda: waiting_accepts(broker) == 3)
    # Azure gives it to one that waits as soon as its link is gone.
    namespace.detach_links(QUEUE, "s1")
    assert holder.complete(a) == [None]
    assert texts(holder.take()) == ["b"]
    for name in ("s2", "s3", "s4"):
        send(broker, "x", session_id=name)
    assert {future.result(10) for future in accepting} == {"s2", "s3", "s4"}


def test_a_session_whose_lock_expired_is_given_to_an_accept_of_the_same_process(
    namespace: Namespace, broker: AzureBroker
) -> None:
    holder, heir = Holder(broker), Holder(broker)
    send(broker, "a")
    (a,) = holder.take()
    accepting = in_thread(heir.accept_next)
    eventually(lambda: waiting_accepts(broker))
    namespace.expire_session_lock(QUEUE, "s1")
    assert accepting.result(10) == "s1"
    assert texts(heir.take()) == ["a"]
    with pytest.raises(SessionNotFoundError):
        holder.renew()
    assert holder.complete(a) == ["MessageLockLost"]
