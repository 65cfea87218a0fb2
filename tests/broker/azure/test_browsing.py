"""Peeking, listing sessions, and dead letters on Azure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from azsession import ProviderError, ServiceBusProvider
from azsession.broker.azure import AzureBroker, browsing
from azsession.broker.calls import Disposition

from ...conftest import eventually
from ...namespaces import Namespace
from .holders import QUEUE, Holder, broker_on, connection_of, send, texts


def dead_letter(broker: AzureBroker, *bodies: str) -> dict[str, int]:
    """Send messages, dead-letter them, and return the sequence numbers of the dead letters by body."""
    holder = Holder(broker)
    send(broker, *bodies, attributes={"kind": "order"})
    holder.settle(*holder.take(len(bodies)), how=Disposition.DEAD_LETTER)
    holder.release()
    return {found.text(): found.sequence_number or 0 for found in broker.dead_letters(QUEUE, 0, 1000).result()}


def test_peeking_goes_on_beyond_a_page(broker: AzureBroker) -> None:
    send(broker, *(str(number) for number in range(600)))
    found = broker.peek(QUEUE, "s1", 0, 1000).result()
    assert [message.text() for message in found] == [str(number) for number in range(600)]
    assert [message.text() for message in broker.peek(QUEUE, "s1", found[300].sequence_number or 0, 2).result()] == [
        "300",
        "301",
    ]
    assert broker.peek(QUEUE, "s1", 2**63 - 1, 10).result() == []


def test_a_resubmitted_dead_letter_goes_to_the_end_of_its_session_with_its_attributes(
    broker: AzureBroker, namespace: Namespace
) -> None:
    numbers = dead_letter(broker, "one", "two", "three")
    send(broker, "four")
    broker.resubmit(QUEUE, numbers["two"]).result()
    messages = Holder(broker).take(2)
    assert texts(messages) == ["four", "two"]
    assert messages[1].attributes == {"kind": "order"}
    assert messages[1].delivery_count == 1
    assert [letter.text() for letter in broker.dead_letters(QUEUE, 0, 10).result()] == ["one", "three"]
    # The search released the others.
    broker.delete_dead_letter(QUEUE, numbers["one"]).result()
    broker.delete_dead_letter(QUEUE, numbers["three"]).result()
    assert broker.dead_letters(QUEUE, 0, 10).result() == []


@pytest.mark.parametrize("number", [999, 2**63 - 1])
def test_a_dead_letter_that_does_not_exist_is_not_found(broker: AzureBroker, number: int) -> None:
    dead_letter(broker, "one")
    for call in (broker.resubmit, broker.delete_dead_letter):
        with pytest.raises(ProviderError) as caught:
            call(QUEUE, number).result()
        assert caught.value.code == "MessageNotFound"


def test_a_dead_letter_that_another_client_has_locked_is_a_transient_error(
    broker: AzureBroker, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = dead_letter(broker, "one", "two")
    with broker_on(namespace) as other:
        dead_letters = QUEUE + browsing.DEAD_LETTER_QUEUE
        connection = connection_of(other, dead_letters)
        search = browsing._DeadLetterSearch(other._loop, connection, dead_letters, numbers["two"])
        other._loop.call(lambda: connection.attach(search))
        search.found.result(10)
        with monkeypatch.context() as quickly:
            quickly.setattr(browsing, "SEARCH_QUIET", 0.2)
            with pytest.raises(ProviderError) as caught:
                broker.delete_dead_letter(QUEUE, numbers["two"]).result()
        assert caught.value.is_transient
        assert caught.value.code == "ServerBusy"
        other._loop.call(search.finish)
        broker.delete_dead_letter(QUEUE, numbers["one"]).result()
        broker.delete_dead_letter(QUEUE, numbers["two"]).result()


def test_a_dead_letter_that_comes_while_a_search_ends_is_released(broker: AzureBroker, namespace: Namespace) -> None:
    numbers = dead_letter(broker, "one")
    dead_letters = QUEUE + browsing.DEAD_LETTER_QUEUE

    def locked() -> list[str]:
        return namespace.locked_dead_letters(QUEUE)

    def search_on(broker: AzureBroker, number: int) -> browsing._DeadLetterSearch:
        connection = connection_of(broker, dead_letters)
        search = browsing._DeadLetterSearch(broker._loop, connection, dead_letters, number)
        broker._loop.call(lambda: connection.attach(search))
        eventually(lambda: search.attached)
        return search

    with broker_on(namespace) as other:
        holding = search_on(other, numbers["one"])
        holding.found.result(10)
        late, before = search_on(broker, 999), locked()

        def end() -> None:
            # The loop reads nothing until this function returns.
            other._loop.call(holding.finish)
            eventually(lambda: locked() not in ([], before))
            late.finish()

        broker._loop.call(end)
        eventually(lambda: locked() == [])
        assert late.seen == 0


def test_many_dead_letters_are_resubmitted_at_the_same_time(namespace: Namespace) -> None:
    with broker_on(namespace) as broker:
        numbers = dead_letter(broker, *(str(number) for number in range(12)))
    with ServiceBusProvider.from_connection_string(namespace.connection_string) as provider, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: provider.resubmit(QUEUE, number), numbers.values()))
        assert provider.dead_letters(QUEUE) == []
        found = provider.peek_messages(QUEUE, "s1", 1000)
        assert sorted(message.text() for message in found) == sorted(numbers)
