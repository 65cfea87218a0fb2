"""The checks of names, ids, durations and attributes."""

from __future__ import annotations

import contextlib
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import ValidationError
from azsession.validation import (
    check_attributes,
    check_count,
    check_host_name,
    check_instant,
    check_queue_name,
    check_session_id,
    check_text,
    did_you_mean,
    seconds,
)


@pytest.mark.parametrize(
    "session_id",
    [
        "",
        ".",
        "..",
        "a\nb",
        "\x00",
        "\x7f",
        "a\x85",
        "a",
        "a/b",
        "a/messages/head",
        "50%",
        "a?b#c",
        "état",
        "...",
        " ",
        "😀",
        "é" * 128,
        "\u2028",
        "'\"",
        "-",
        "$",
    ],
)
def test_a_session_id_is_any_text_of_up_to_128_characters(session_id: str) -> None:
    assert check_session_id(session_id) == session_id


@pytest.mark.parametrize("session_id", ["x" * 129, "\ud800", None, 5, b"bytes", ["a"]])
def test_an_invalid_session_id_is_refused(session_id: Any) -> None:
    with pytest.raises(ValidationError, match="session id"):
        check_session_id(session_id)


@pytest.mark.parametrize(
    "name",
    [
        "orders",
        "A.b-c_9",
        "x" * 260,
        "site1/orders",
        "a/b/c/d",
        "events/subscriptions/audit",
        "events/Subscriptions/a.b",
        "site1/events/subscriptions/audit",
        "subscriptions",
        "subscriptions/orders",
    ],
)
def test_a_queue_name_is_a_path_or_a_subscription_of_a_topic(name: str) -> None:
    assert check_queue_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 261,
        "a b",
        "a//b",
        "a/./b",
        "a/../b",
        "a/b/..",
        "x/" * 130 + "x",
        "a/subscriptions",
        "a/subscriptions/b/c",
        "a/subscriptions/b/subscriptions/c",
        "~a",
        "a/$sessions",
        "é",
        ".",
        "..",
        "../subscriptions/b",
        "a/subscriptions/",
        "/a",
        "a/",
        "a\n",
        "a%2Fb",
        None,
        5,
        b"orders",
    ],
)
def test_an_invalid_queue_name_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match="queue name"):
        check_queue_name(name)


@pytest.mark.parametrize(("value", "expected"), [(0, 0.0), (2, 2.0), (1.5, 1.5), (timedelta(minutes=1), 60.0)])
def test_a_duration_is_seconds_or_a_timedelta(value: Any, expected: float) -> None:
    assert seconds(value, "it") == expected


@pytest.mark.parametrize("value", [-1, -0.001, math.nan, math.inf, True, "5", None, timedelta(seconds=-1)])
def test_an_invalid_duration_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="it must be"):
        seconds(value, "it")


def test_a_positive_duration_cannot_be_zero() -> None:
    with pytest.raises(ValidationError, match="more than 0"):
        seconds(0, "it", positive=True)


@pytest.mark.parametrize("value", [1, 500, 1000])
def test_a_count_is_a_whole_number_from_1_to_1000(value: int) -> None:
    assert check_count(value, "it") == value


@pytest.mark.parametrize("value", [0, -1, 1001, 1.0, True, "1", None])
def test_an_invalid_count_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="whole number"):
        check_count(value, "it")


def test_an_instant_without_a_time_zone_is_refused() -> None:
    now = datetime.now(timezone.utc)
    assert check_instant(now, "it") is now
    for wrong in (datetime(2026, 1, 1), 5, "2026-01-01", None):
        with pytest.raises(ValidationError, match="it "):
            check_instant(wrong, "it")


@given(st.text(max_size=20))
def test_a_text_is_accepted_if_utf8_can_encode_it(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(ValidationError, match="surrogate"):
            check_text(text, "it")
    else:
        assert check_text(text, "it", 20) == text


def test_a_text_over_its_limit_is_refused() -> None:
    with pytest.raises(ValidationError, match="at most 3"):
        check_text("four", "it", 3)


def test_attributes_are_copied() -> None:
    given_attributes: dict[str, Any] = {"s": "x", "i": -(2**63), "f": 0.5, "b": True, "u": 2**64 - 1, "n": None, "d": b""}
    checked = check_attributes(given_attributes)
    assert checked == given_attributes
    assert checked is not given_attributes


@pytest.mark.parametrize(
    "attributes",
    [
        None,
        [("a", 1)],
        {"": 1},
        {5: 1},
        {"x" * 129: 1},
        {"a\n": 1},
        {"a": datetime(2100, 1, 1)},
        {"a": [1]},
        {"a": math.nan},
        {"a": math.inf},
        {"a": 2**64},
        {"a": -(2**63) - 1},
        {"a": "\ud800"},
        {"a": {}},
    ],
)
def test_invalid_attributes_are_refused(attributes: Any) -> None:
    with pytest.raises(ValidationError, match="attribute"):
        check_attributes(attributes)


@pytest.mark.parametrize(("name", "shown"), [("a\n", r"not 'a\\n'"), (5, "not int"), ("x" * 129, f"not '{'x' * 80}'")])
def test_the_error_for_a_wrong_name_of_an_attribute_shows_it(name: Any, shown: str) -> None:
    with pytest.raises(ValidationError, match=shown):
        check_attributes({name: 1})


@given(st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.floats(), st.lists(st.text())))
def test_a_check_raises_nothing_but_validation_error(value: Any) -> None:
    for check in (check_session_id, check_queue_name, check_attributes):
        with contextlib.suppress(ValidationError):
            check(value)


def test_an_unknown_name_suggests_the_name_that_looks_most_like_it() -> None:
    known = ["session_timeout", "request_timeout", "retry_attempts"]
    assert did_you_mean("sesion_timeout", known) == "'sesion_timeout'; did you mean 'session_timeout'?"
    assert did_you_mean("colour", known) == "'colour'; there are session_timeout, request_timeout, retry_attempts"


@pytest.mark.parametrize(
    "name", ["localhost", "sessions.example.com", "Sessions.Example.com.", "a_b", "127.0.0.1", "::1", "fe80::1"]
)
def test_a_host_has_a_name_or_an_address(name: str) -> None:
    assert check_host_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "http://x",
        "x/",
        "x:80",
        "[::1]",
        "a..b",
        ".a",
        "a b",
        "a\n",
        "x@y",
        "münchen.de",
        "a" * 254,
        "a." * 150,
        None,
        5,
        b"x",
    ],
)
def test_an_invalid_host_name_is_refused(name: Any) -> None:
    with pytest.raises(ValidationError, match="is not the name of a host"):
        check_host_name(name)
