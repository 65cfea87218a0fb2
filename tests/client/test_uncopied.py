"""Objects that hold a connection or a lock refuse to be copied and pickled."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable, Iterator

import pytest

from azsession import Message, ServiceBusProvider, SessionProcessor

#: Each returns a copy of an object.
COPIES = (copy.copy, copy.deepcopy, pickle.dumps)


@pytest.fixture
def provider() -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.embedded(queues=["q"]) as provider:
        yield provider


@pytest.mark.parametrize("make_copy", COPIES)
def test_a_client_is_not_copied_and_stays_open(provider: ServiceBusProvider, make_copy: Callable[[object], object]) -> None:
    provider.send_message("q", Message("x", session_id="s"))
    with provider.create_session_client("q", "s") as session:
        message = session.receive_message(timeout=0)
        assert message is not None
        with pytest.raises(TypeError, match=r"a SessionClient cannot be copied or pickled: .*session_from_receipt"):
            make_copy(session)
        session.complete_message(message)


@pytest.mark.parametrize("make_copy", COPIES)
def test_a_provider_and_a_processor_are_not_copied(
    provider: ServiceBusProvider, make_copy: Callable[[object], object]
) -> None:
    with pytest.raises(TypeError, match=r"a ServiceBusProvider cannot be copied or pickled: .*from the same configuration"):
        make_copy(provider)
    with pytest.raises(TypeError, match="a SessionProcessor cannot be copied or pickled: make one for each process"):
        make_copy(SessionProcessor(provider, "q", lambda message, session: None))


def test_a_spawned_process_says_what_to_pass_instead(provider: ServiceBusProvider) -> None:
    with provider.create_session_client("q", "s") as session:
        process = multiprocessing.get_context("spawn").Process(target=print, args=(session,))
        with pytest.raises(TypeError, match="session_from_receipt"):
            process.start()


def test_messages_and_receipts_are_copied(provider: ServiceBusProvider) -> None:
    provider.send_message("q", Message("x", session_id="s"))
    with provider.create_session_client("q", "s") as session:
        message = session.receive_message(timeout=0)
        assert message is not None
        assert pickle.loads(pickle.dumps(message)) == message == copy.copy(message) == copy.deepcopy(message)
        session.complete_message(pickle.loads(pickle.dumps(message.receipt)))
