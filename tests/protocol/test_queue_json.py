"""Durations in ISO 8601, and queues as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import QueueInfo, QueueSettings, ValidationError
from azsession.protocol.queue_json import (
    decode_queue,
    decode_queue_info,
    encode_queue,
    encode_queue_info,
    format_duration,
    parse_duration,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT30S", 30),
        ("PT0.5S", 0.5),
        ("PT1M", 60),
        ("PT1H", 3600),
        ("P1D", 86400),
        ("P7D", 604800),
        ("P1DT2H3M4.5S", 93784.5),
    ],
)
def test_a_duration_of_days_hours_minutes_and_seconds_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text, "it") == seconds


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "30", "30S", "PT-5S", "P1Y", "P1M", "P1W", "PT1S1M", "pt5s", "PT5S ", "PT1e3S", 5, None]
)
def test_an_invalid_duration_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match=r"it must be a duration in ISO 8601.*, not ") as caught:
        parse_duration(text, "it")
    assert str(caught.value).endswith(repr(text[:80]) if isinstance(text, str) else type(text).__name__)


@pytest.mark.parametrize(
    ("seconds", "text"), [(30, "PT30S"), (0.5, "PT0.5S"), (60.0, "PT60S"), (300, "PT300S"), (10, "PT10S"), (0, "PT0S")]
)
def test_seconds_are_written_as_seconds_without_trailing_zeros(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 1e9))
def test_a_duration_survives_conversion_to_the_microsecond(seconds: float) -> None:
    assert parse_duration(format_duration(seconds), "it") == pytest.approx(seconds, abs=1e-6)


SETTINGS = st.builds(
    QueueSettings,
    lock_duration=st.integers(1, 300),
    max_delivery_count=st.integers(1, 2000),
    default_time_to_live=st.none() | st.integers(1, 10**9),
    dead_letter_on_expiration=st.booleans(),
    requires_duplicate_detection=st.booleans(),
    duplicate_detection_window=st.integers(20, 604800),
    sessions_expire_together=st.booleans(),
)


@given(SETTINGS, st.none() | st.integers(0, 10**9), st.none() | st.integers(0, 10**9))
def test_a_queue_survives_conversion_to_json_and_back(settings: QueueSettings, active: int | None, dead: int | None) -> None:
    queue = QueueInfo("orders", settings, active, dead)
    assert decode_queue_info(json.loads(json.dumps(encode_queue_info(queue)))) == queue
    assert decode_queue(json.loads(json.dumps(encode_queue(settings)))) == settings


def test_a_setting_that_other_servers_may_not_know_is_sent_only_if_it_is_used() -> None:
    assert "SessionsExpireTogether" not in encode_queue(QueueSettings())
    assert encode_queue(QueueSettings(sessions_expire_together=True))["SessionsExpireTogether"] is True


def test_a_missing_setting_has_its_default() -> None:
    assert decode_queue({}) == QueueSettings()
    assert decode_queue({"RequiresSession": True, "LockDuration": None}) == QueueSettings()


@pytest.mark.parametrize(
    "data",
    [
        {"RequiresSession": False},
        {"LockDuration": 30},
        {"LockDuration": "PT0S"},
        {"LockDuration": "PT301S"},
        {"MaxDeliveryCount": 0},
        {"MaxDeliveryCount": "10"},
        {"MaxDeliveryCount": True},
        {"DeadLetteringOnMessageExpiration": "yes"},
        {"SessionsExpireTogether": "yes"},
        {"DuplicateDetectionHistoryTimeWindow": "PT1S"},
        {"DefaultMessageTimeToLive": "PT0S"},
        {"Nonsense": 1},
    ],
)
def test_an_invalid_setting_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        decode_queue(data)


@pytest.mark.parametrize("data", [{}, {"QueueName": 5}, {"QueueName": "q", "MessageCount": "3"}])
def test_json_that_does_not_describe_a_queue_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        decode_queue_info(data)


def test_a_misspelled_setting_suggests_the_right_one() -> None:
    with pytest.raises(ValidationError, match="no setting 'LockDuraton'; did you mean 'LockDuration'"):
        decode_queue({"LockDuraton": "PT30S"})
