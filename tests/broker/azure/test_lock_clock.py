"""How long locks last while the clock here is set, or wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import azsession.broker.clock
from azsession.broker.azure import lock_clock
from azsession.broker.azure.lock_clock import MIN_LOCK_DURATION, ServiceClock

from ...standin.require import require_standin
from .holders import QUEUE, Holder, broker_on, send

if TYPE_CHECKING:
    from tests.standin import StandIn

LOCK_DURATION = 8.0


class Clocks:
    """A wall clock that can be set, a monotonic clock, and Azure's clock. Time passes when a test says so."""

    def __init__(self, wrong_by: float) -> None:
        self.azure = 1_700_000_000.0
        self.wall = self.azure + wrong_by
        self.since_boot = 1000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.since_boot

    def go_on(self, seconds: float) -> None:
        self.azure += seconds
        self.wall += seconds
        self.since_boot += seconds

    def sleep(self, seconds: float) -> None:
        """Pass time while the machine sleeps: its monotonic clock stands still."""
        self.go_on(seconds)
        self.since_boot -= seconds


@pytest.fixture
def clocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks(getattr(request, "param", 0.0))
    use(clocks, monkeypatch)
    return clocks


def use(clocks: Clocks | SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `ServiceClock`, and nothing else, read these clocks."""
    for module in (lock_clock, azsession.broker.clock):
        monkeypatch.setattr(module, "time", clocks)


@pytest.mark.parametrize("step", [-86400.0, -7200.0, -300.0, -30.0, 0.0, 30.0, 300.0, 7200.0, 86400.0])
def test_setting_the_clock_neither_extends_nor_ends_a_lock(clocks: Clocks, step: float) -> None:
    service = ServiceClock()
    assert service.left(clocks.azure + 60) == pytest.approx(60)
    clocks.wall += step
    for _ in range(3):
        assert MIN_LOCK_DURATION <= service.left(clocks.azure + 60) <= 60.001
        clocks.go_on(1000)
    clocks.wall -= step
    assert service.left(clocks.azure + 60) == pytest.approx(60)


@pytest.mark.parametrize("clocks", [-86400.0, -7200.0, 7200.0, 86400.0], indirect=True)
def test_a_clock_that_was_wrong_from_the_start_is_not_used(clocks: Clocks) -> None:
    service = ServiceClock()
    assert service.left(clocks.azure + 60) == MIN_LOCK_DURATION
    clocks.wall = clocks.azure
    assert service.left(clocks.azure + 60) == pytest.approx(60)
    # The time that was right is kept when the wall clock is set to a wrong time again.
    clocks.wall -= 7200
    assert service.left(clocks.azure + 60) == pytest.approx(60)


@pytest.mark.parametrize("clocks", [-20.0, -0.5, 0.0, 0.5, 20.0], indirect=True)
@pytest.mark.parametrize("lasts", [60.0, 300.0])
def test_a_clock_that_is_wrong_by_seconds_is_used(clocks: Clocks, lasts: float) -> None:
    by_wall_clock = clocks.azure + lasts - clocks.wall
    assert ServiceClock().left(clocks.azure + lasts) == pytest.approx(min(300.0, by_wall_clock))


@pytest.mark.parametrize("asleep", [40.0, 3600.0])
def test_the_wall_clock_is_used_after_the_machine_slept(clocks: Clocks, asleep: float) -> None:
    service = ServiceClock()
    clocks.sleep(asleep)
    assert service.left(clocks.azure + 60) == pytest.approx(60)


@pytest.fixture
def namespace() -> Iterator[StandIn]:
    with require_standin()() as namespace:
        namespace.create_queue(QUEUE, lock_duration=LOCK_DURATION)
        yield namespace


@pytest.mark.parametrize("step", [-7200.0, -60.0, 60.0, 7200.0])
def test_a_renewal_returns_the_time_that_the_lock_has_after_the_clock_was_set(
    namespace: StandIn, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broker_on(namespace) as broker:
        send(broker, "x", "y", session_id="s1")
        holder, other = Holder(broker), Holder(broker, "s2")
        holder.take()
        use(SimpleNamespace(time=lambda: time.time() + step, monotonic=time.monotonic), monkeypatch)
        assert LOCK_DURATION / 2 < holder.renew() <= LOCK_DURATION
        holder.complete(*holder.take())
        other.receive(timeout=0)
        assert LOCK_DURATION / 2 < other.renew() <= LOCK_DURATION
