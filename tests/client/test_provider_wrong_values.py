"""Wrong values raise the package's own errors before anything is sent or taken, with messages of a bounded length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from azsession import (
    ConfigurationError,
    InvalidReceiptError,
    Message,
    ServiceBusConfig,
    ServiceBusProvider,
    SessionClient,
    SessionProcessor,
    ValidationError,
)

# The values are of wrong types, which is the point of these tests. `Any` keeps mypy quiet.
HUGE: Any = 10**400
#: Python refuses to write it as text.
UNWRITABLE: Any = 10**5000
LONE: Any = "a\ud800"
DURATIONS: list[Any] = [HUGE, UNWRITABLE, timedelta.max, timedelta.min, math.nan, math.inf, -1, True, "5", LONE, b"5", []]
COUNTS: list[Any] = [HUGE, UNWRITABLE, 0, -1, 1.5, True, "5", None, []]
TEXTS: list[Any] = [5, UNWRITABLE, True, b"x", LONE, [], 1.5]
LISTS: list[Any] = [5, UNWRITABLE, None, "abc", b"abc", timedelta.max]

Call = Callable[[ServiceBusProvider, SessionClient, Any], object]

#: Each call with the values that it must refuse.
CALLS: dict[str, tuple[Call, list[Any]]] = {
    "receive_message timeout": (lambda p, s, v: s.receive_message(v), DURATIONS),
    "receive_messages timeout": (lambda p, s, v: s.receive_messages(1, v), DURATIONS),
    "receive_messages count": (lambda p, s, v: s.receive_messages(v), COUNTS),
    "messages timeout": (lambda p, s, v: s.messages(v), DURATIONS),
    "messages prefetch": (lambda p, s, v: s.messages(1, v), COUNTS),
    "receive_deferred_messages": (lambda p, s, v: s.receive_deferred_messages(v), LISTS),
    "a deferred number": (lambda p, s, v: s.receive_deferred_messages([v]), COUNTS),
    "session_timeout": (lambda p, s, v: p.create_session_client("q", session_timeout=v), [*DURATIONS, 0]),
    "max_renewal": (lambda p, s, v: p.create_session_client("q", max_renewal=v), DURATIONS),
    "accept_timeout": (lambda p, s, v: p.create_session_client("q", accept_timeout=v), DURATIONS),
    "auto_renew": (lambda p, s, v: p.create_session_client("q", auto_renew=v), ["false", 0, None]),
    "on_lock_lost": (lambda p, s, v: p.create_session_client("q", on_lock_lost=v), [5, "print"]),
    "session id": (lambda p, s, v: p.create_session_client("q", v), [*TEXTS]),
    "queue name": (lambda p, s, v: p.create_session_client(v), [*TEXTS, None, ""]),
    "peek count": (lambda p, s, v: p.peek_messages("q", "s", v), COUNTS),
    "peek start": (lambda p, s, v: p.peek_messages("q", "s", 1, v), [HUGE, UNWRITABLE, -1, "5", True]),
    "dead_letters count": (lambda p, s, v: p.dead_letters("q", v), COUNTS),
    "resubmit": (lambda p, s, v: p.resubmit("q", v), COUNTS),
    "delete_dead_letter": (lambda p, s, v: p.delete_dead_letter("q", v), COUNTS),
    "send_messages": (lambda p, s, v: p.send_messages("q", v), LISTS),
    "a message": (lambda p, s, v: p.send_message("q", v), [5, "text", None]),
    "complete_message": (lambda p, s, v: s.complete_message(v), [*TEXTS, None]),
    "complete_messages": (lambda p, s, v: s.complete_messages(v), LISTS),
    "session_from_receipt": (lambda p, s, v: p.session_from_receipt(v), [*TEXTS, None]),
    "dead-letter reason": (lambda p, s, v: s.dead_letter_session(v), [*TEXTS, None, "x" * 4097]),
    "session state": (lambda p, s, v: s.set_session_state(v), [5, [], UNWRITABLE]),
    "queue settings": (lambda p, s, v: p.create_queue("new", v), [5, "x", {}]),
    "session_ids": (lambda p, s, v: SessionProcessor(p, "q", print, session_ids=v), [5, "abc", [], [5], [LONE]]),
    "grace_period": (lambda p, s, v: SessionProcessor(p, "q", print, grace_period=v), DURATIONS),
    "stop timeout": (lambda p, s, v: SessionProcessor(p, "q", print).stop(v), DURATIONS),
}


@pytest.fixture
def provider() -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.embedded(queues=["q"]) as provider:
        provider.send_message("q", Message("x", session_id="waiting"))
        yield provider


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_before_a_session_is_taken(provider: ServiceBusProvider, name: str) -> None:
    call, values = CALLS[name]
    with provider.create_session_client("q", "s") as session:
        for value in values:
            with pytest.raises((ValidationError, InvalidReceiptError)) as raised:
                call(provider, session, value)
            assert len(str(raised.value)) < 400
            str(raised.value).encode()  # A log file must be able to store the text.
    assert [(info.session_id, info.locked_until) for info in provider.list_sessions("q")] == [("waiting", None)]


@pytest.mark.parametrize("value", [5, b"x", LONE, True, [], "", "a\0b"])
def test_a_wrong_data_file_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="the data file must be"):
        ServiceBusProvider.embedded(value)


@pytest.mark.parametrize("options", [{"queues": 5}, {"queues": "orders"}, {"auto_create": "false"}])
def test_wrong_options_of_the_embedded_broker_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"queues must be a list|auto_create must be True or False"):
        ServiceBusProvider.embedded(**options)


@pytest.mark.parametrize("field", ["gateway_url", "namespace", "connection_string", "transport"])
def test_a_wrong_address_is_refused(field: str) -> None:
    for value in [*TEXTS, ""]:
        fields: dict[str, Any] = {"namespace": "x", field: value} if field == "transport" else {field: value}
        with pytest.raises(ConfigurationError) as raised:
            ServiceBusConfig(**fields)
        assert len(str(raised.value)) < 400
        if not isinstance(value, str) and field != "transport":
            assert str(raised.value) == f"{field} must be a str, not {type(value).__name__}"


def test_a_flag_of_the_configuration_is_a_bool() -> None:
    values: list[Any] = ["false", "true", 0, 1, None, UNWRITABLE]
    for value in values:
        with pytest.raises(ConfigurationError, match="allow_insecure_http must be True or False, not"):
            ServiceBusConfig(gateway_url="http://example.com", allow_insecure_http=value)


@pytest.mark.parametrize("field", ["session_timeout", "request_timeout", "retry_deadline"])
def test_a_wrong_duration_of_the_configuration_is_refused(field: str) -> None:
    for value in DURATIONS:
        fields: dict[str, Any] = {field: value}
        with pytest.raises(ConfigurationError, match=f"^{field} must be") as raised:
            ServiceBusConfig(namespace="x", **fields)
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize("field", ["retry_attempts", "pool_connections"])
def test_a_wrong_count_of_the_configuration_is_refused(field: str) -> None:
    for value in [HUGE, UNWRITABLE, -1, 1.5, True, "5", None]:
        fields: dict[str, Any] = {field: value}
        with pytest.raises(ConfigurationError, match=f"^{field} must be a whole number from [01] to [0-9]+, not") as raised:
            ServiceBusConfig(namespace="x", **fields)
        assert len(str(raised.value)) < 400
