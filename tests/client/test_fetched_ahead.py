"""Messages fetched ahead: the requests that they save, and what the client tells the server about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from azsession import Message, ServiceBusConfig, ServiceBusProvider, SessionClient
from azsession.testing import AzsessionServer


class Traffic:
    """Records the requests of a `requests.Session` about one session.

    Attributes:
        hidden: Headers that are removed from the responses.
        receives: The queries of the receives.
        settled: The bodies of requests that settle many messages, with the texts of the messages in place of their tokens.
        others: The methods of the other requests about messages.
    """

    def __init__(self, http: requests.Session) -> None:
        self.hidden: tuple[str, ...] = ()
        self.receives: list[dict[str, list[str]]] = []
        self.settled: list[dict[str, list[str]]] = []
        self.others: list[str] = []
        self._texts: dict[str, str] = {}
        http.hooks["response"].append(self._record)

    def _record(self, response: requests.Response, **_: object) -> None:
        for name in self.hidden:
            response.headers.pop(name, None)
        url = urlsplit(response.request.url or "")
        if url.path.endswith("/messages/head"):
            self.receives.append(parse_qs(str(url.query)))
            if response.headers.get("Azsession-Count"):
                for item in response.json():
                    self._texts[item["BrokerProperties"]["LockToken"]] = item["Body"]
        elif url.path.endswith("/$settle"):
            body = json.loads(response.request.body or b"{}")
            self.settled.append({name: [self._texts.get(token, "?") for token in tokens] for name, tokens in body.items()})
        elif "/sessions/s1/messages/" in str(url.path):
            self.others.append(response.request.method or "")

    def clear(self) -> None:
        for records in (self.receives, self.settled, self.others):
            records.clear()


@pytest.fixture
def traffic(http: requests.Session) -> Traffic:
    return Traffic(http)


@pytest.fixture
def session(azsession_server: AzsessionServer, http: requests.Session, traffic: Traffic) -> Iterator[SessionClient]:
    """A session with 25 messages, whose client knows which protocol the server speaks."""
    config = ServiceBusConfig(connection_string=azsession_server.connection_string)
    with ServiceBusProvider(config, http=http) as provider:
        provider.send_messages("orders", [Message(str(number), session_id="s1") for number in range(25)])
        with provider.create_session_client("orders", "s1") as session:
            yield session


def test_messages_that_are_settled_one_by_one_need_no_request_to_take_them(session: SessionClient, traffic: Traffic) -> None:
    for message in islice(session.messages(timeout=0), 10):
        session.complete_message(message)
    assert traffic.receives == [{"timeout": ["0"], "max": ["10"], "taken": ["1"]}]
    assert not [body for body in traffic.settled if "take" in body]


def test_a_message_that_is_taken_while_another_is_in_use_is_named(session: SessionClient, traffic: Traffic) -> None:
    messages = session.messages(timeout=0)
    first, _ = next(messages), next(messages)
    assert traffic.settled == [{"take": ["1"]}]
    session.complete_message(first)
    assert [message.text() for message in session.receive_messages(3, timeout=0)] == ["2", "3", "4"]
    assert traffic.settled[1:] == [{"take": ["2", "3", "4"]}]


def test_an_abandoned_message_takes_those_fetched_ahead_back_in_the_same_request(
    session: SessionClient, traffic: Traffic
) -> None:
    (first,) = islice(session.messages(timeout=0, prefetch=4), 1)
    session.abandon_message(first)
    assert traffic.settled == [{"release": ["1", "2", "3"], "abandon": ["0"]}]
    assert traffic.others == []
    again = session.receive_messages(5, timeout=0)
    assert [(message.text(), message.delivery_count) for message in again] == [
        ("0", 2), ("1", 1), ("2", 1), ("3", 1), ("4", 1),
    ]  # fmt: skip


def test_no_message_is_fetched_ahead_from_a_server_that_cannot_take_it_back(session: SessionClient, traffic: Traffic) -> None:
    # As of an older gateway behind the same balancer.
    traffic.hidden = ("Azsession-Extensions",)
    session.get_session_state()
    traffic.clear()
    seen = []
    for message in islice(session.messages(timeout=0), 3):
        seen.append((message.text(), message.delivery_count))
        session.abandon_message(message)
    assert seen == [("0", 1), ("0", 2), ("0", 3)]
    assert traffic.receives == [{"timeout": ["0"], "max": ["1"]}] * 3
    assert traffic.others == ["PUT"] * 3
    assert traffic.settled == []


def test_a_message_that_another_process_uses_does_not_hide_the_use_of_the_next_one(
    azsession_provider: ServiceBusProvider,
) -> None:
    azsession_provider.send_messages("orders", [Message(str(number), session_id="s1") for number in range(5)])

    def counted() -> list[int]:
        return [message.delivery_count for message in azsession_provider.peek_messages("orders", "s1")]

    with azsession_provider.create_session_client("orders", "s1") as one:
        assert one.receive_message(timeout=5) is not None
        with azsession_provider.session_from_handle(one.lock_handle()) as other:
            messages = other.messages(timeout=0)
            other.complete_message(next(messages))
            next(messages)
            assert counted() == [1, 1, 0, 0]
            other.detach()
        messages = one.messages(timeout=0)
        one.complete_message(next(messages))
        next(messages)
        assert counted()[-1] == 1
