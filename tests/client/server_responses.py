"""Valid responses to each operation, JSON values to put into them, and a server in this process that answers with them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
from hypothesis import strategies as st
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from azsession import ServiceBusConfig, ServiceBusProvider, SessionClient

URL = "http://127.0.0.1:9"


CONNECTION_STRING = f"Endpoint={URL}/;SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0"


ENVELOPE = "application/vnd.microsoft.servicebus.json"


LOCK = {"Azsession-Lock-Expires-In": "60", "Azsession-Waited": "0"}


MESSAGE = {
    "Body": "x",
    "BodyEncoding": "utf-8",
    "ContentType": "text/plain",
    "UserProperties": {"a": 1},
    "BrokerProperties": {
        "LockToken": "t", "SessionId": "s", "MessageId": "m", "SequenceNumber": 1, "DeliveryCount": 1, "TimeToLive": 5,
        "EnqueuedTimeUtc": "Mon, 02 Jan 2023 03:04:05 GMT", "ScheduledEnqueueTimeUtc": "2023-01-02T03:04:05Z",
        "Label": "l", "CorrelationId": "c", "To": "t", "ReplyTo": "r", "ReplyToSessionId": "r", "State": "Active",
        "DeadLetterReason": "d", "DeadLetterErrorDescription": "d",
    },
}  # fmt: skip


QUEUE = {
    "QueueName": "q", "LockDuration": "PT30S", "MaxDeliveryCount": 3, "DefaultMessageTimeToLive": "P1D",
    "DeadLetteringOnMessageExpiration": True, "RequiresDuplicateDetection": False, "RequiresSession": True,
    "DuplicateDetectionHistoryTimeWindow": "PT10M", "MessageCount": 1, "DeadLetterMessageCount": 0,
}  # fmt: skip


SESSION = {"SessionId": "s", "MessageCount": 1, "LockedUntilUtc": "Mon, 02 Jan 2023 03:04:05 GMT"}


#: A valid response to each operation: body and headers.
GOOD: dict[str, tuple[Any, dict[str, str]]] = {
    "receive many": ([MESSAGE], {**LOCK, "Azsession-Count": "1"}),
    "accept": ({"SessionId": "s"}, LOCK),
    "accept with messages": ({"SessionId": "s", "Messages": [MESSAGE]}, LOCK),
    "settle and receive": ({"failed": [], "Messages": [MESSAGE]}, LOCK),
    "settle and release": ({"failed": [{"LockToken": "t", "code": "Conflict"}]}, {}),
    "renew": ({}, LOCK),
    "settle": ({"failed": [{"LockToken": "t", "code": "Conflict"}]}, {}),
    "receive deferred": ([MESSAGE], {"Azsession-Count": "1"}),
    "dead-letter session": ({"count": 1}, {}),
    "peek": ([MESSAGE], {}),
    "dead letters": ([MESSAGE], {}),
    "list sessions": ({"sessions": [SESSION]}, {}),
    "queue": (QUEUE, {}),
    "queues": ({"queues": [QUEUE]}, {}),
}


#: Any JSON values, some of them hard to handle.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]), max_size=20)
    | st.sampled_from(["", ".", "..", "\ud800", "a\r\nb", "x" * 5000, 2**64, -1, 1e308, "NaN"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each part of a JSON value."""
    yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """Return `value` with another part behind these keys."""
    if not at:
        return new
    changed = copy.deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return changed


class Server(BaseAdapter):
    """Gives the same response to the first ten requests, in this process, and 204 to all later ones."""

    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        super().__init__()
        self._answer = (status, body, headers)
        self.paths: list[str] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        response = requests.Response()
        response.status_code, response._content = self._answer[:2] if len(self.paths) < 10 else (204, b"")
        response.headers = CaseInsensitiveDict({"Azsession-Protocol": "1", **self._answer[2]})
        response.request = request
        self.paths.append(request.path_url)
        return response

    def close(self) -> None:
        pass


@contextmanager
def answered(status: int, value: Any, headers: dict[str, str]) -> Iterator[tuple[ServiceBusProvider, Server]]:
    """Yield a provider whose server responds with this to all requests, and the server."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    server = Server(status, body, headers)
    http = requests.Session()
    http.mount("http://", server)
    config = ServiceBusConfig(connection_string=CONNECTION_STRING, retry_attempts=0)
    provider = ServiceBusProvider(config, http=http)
    try:
        yield provider, server
    finally:
        provider.close()


def in_session(use: Callable[[SessionClient], object]) -> Callable[[ServiceBusProvider], object]:
    def run(provider: ServiceBusProvider) -> object:
        with provider.create_session_client("q", "s", auto_renew=False) as session:
            return use(session)

    return run


def take_and_settle(session: SessionClient) -> None:
    for message in session.receive_messages(5, timeout=0):
        str(message.receipt)
        session.complete_message(message)
