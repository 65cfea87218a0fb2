"""Holders that this process does not know."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from azsession import (
    SessionNotFoundError,
)
from azsession.broker.azure import AzureBroker
from azsession.broker.calls import ReceiveRequest

from ....namespaces import Namespace
from ..holders import QUEUE, Holder


def test_a_receive_with_a_lock_that_was_taken_elsewhere_does_not_take_it_again(broker: AzureBroker) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        broker.receive(ReceiveRequest(QUEUE, "s1", str(uuid.uuid4()), max_count=1, timeout=0.0, holds_lock=True)).result()
    assert caught.value.code == "SessionLockLost"
    assert Holder(broker).receive(timeout=0.0) == []


@pytest.mark.parametrize(
    "operation",
    [
        lambda broker, whose: broker.get_state(*whose).result(),
        lambda broker, whose: broker.set_state(*whose, b"mine").result(),
        lambda broker, whose: broker.receive_deferred(*whose, [1]).result(),
        lambda broker, whose: broker.dead_letter_session(*whose, "why", None).result(),
        lambda broker, whose: broker.renew(*whose).result(),
    ],
    ids=["get state", "set state", "receive deferred", "dead-letter session", "renew"],
)
def test_an_operation_with_a_lock_that_was_taken_elsewhere_takes_no_lock(
    operation: Callable[[AzureBroker, tuple[str, str, str]], object], namespace: Namespace, broker: AzureBroker
) -> None:
    with pytest.raises(SessionNotFoundError) as caught:
        operation(broker, Holder(broker).whose)
    assert caught.value.code == "SessionLockLost"
    assert namespace.locked_sessions(QUEUE) == set()
