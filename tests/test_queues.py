"""The settings of a queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
import pytest

from azsession import QueueSettings, ValidationError


def test_the_defaults_are_those_of_azure() -> None:
    assert attrs.asdict(QueueSettings()) == {
        "lock_duration": 60.0,
        "max_delivery_count": 10,
        "default_time_to_live": None,
        "dead_letter_on_expiration": False,
        "requires_duplicate_detection": False,
        "duplicate_detection_window": 600.0,
        "sessions_expire_together": False,
    }


def test_a_duration_can_be_a_timedelta_and_becomes_seconds() -> None:
    settings = QueueSettings(lock_duration=timedelta(minutes=2), default_time_to_live=timedelta(days=1))
    assert (settings.lock_duration, settings.default_time_to_live) == (120.0, 86400.0)


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "step"),
    [
        ("lock_duration", 1, 300, 0.001),
        ("max_delivery_count", 1, 2000, 1),
        ("default_time_to_live", 0.001, 1e12, 0.0005),
        ("duplicate_detection_window", 20, 604800, 0.001),
    ],
)
def test_a_setting_is_accepted_up_to_its_limits(name: str, lowest: float, highest: float, step: float) -> None:
    for value in (lowest, highest):
        assert getattr(QueueSettings(**{name: value}), name) == value  # type: ignore[arg-type]
    for value in (lowest - step, highest + max(step, highest * 1e-9)):
        with pytest.raises(ValidationError, match=name):
            QueueSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"lock_duration": "30"},
        {"lock_duration": None},
        {"lock_duration": float("nan")},
        {"max_delivery_count": 1.5},
        {"max_delivery_count": True},
        {"dead_letter_on_expiration": 1},
        {"requires_duplicate_detection": "yes"},
        {"duplicate_detection_window": True},
    ],
)
def test_a_setting_of_a_wrong_type_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        QueueSettings(**fields)


def test_a_misspelled_setting_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ValidationError, match=r"there is no queue setting 'lock_durations'; did you mean 'lock_duration'\?"):
        QueueSettings(lock_durations=30)  # type: ignore[call-arg]
