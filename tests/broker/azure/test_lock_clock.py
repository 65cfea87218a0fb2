"""How long locks last while the clock here is set, or wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import azsession.broker.clock
from azsession import ServiceBusProvider
from azsession.broker.azure import lock_clock
from azsession.broker.azure.lock_clock import MIN_LOCK_DURATION, ServiceClock
from azsession.broker.azure.session.lock_probe import LockProbe
from azsession.broker.calls import ReceiveRequest, wait_for

from ...conftest import eventually
from ...namespaces import Namespace
from ...namespaces.choice import namespace_on
from .holders import QUEUE, Holder, broker_on, send

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


BEHIND = [6.0, 20.0, 45.0, 300.0]


@pytest.mark.parametrize("clocks", [*(-seconds for seconds in BEHIND), 0.0, 20.0, 7200.0], indirect=True)
@pytest.mark.parametrize("lasts", [5.0, 30.0, 300.0])
def test_the_sure_time_is_the_shortest_lock_until_a_renewal_showed_that_locks_last_longer(
    clocks: Clocks, lasts: float
) -> None:
    service = ServiceClock()
    first = clocks.azure + lasts
    service.granted(first, clocks.monotonic())
    assert service.sure_left(first) == pytest.approx(5.0)
    held = lasts * 0.9
    clocks.go_on(held)
    service.alive(first, clocks.monotonic())
    service.granted(clocks.azure + lasts, clocks.monotonic())
    assert service.sure_left(clocks.azure + lasts) == pytest.approx(max(5.0, held), abs=0.1)
    # The bound of Azure's clock holds for other queues, too.
    assert service.sure_left(clocks.azure + 300) <= 300.0


@given(
    st.floats(5, 300),
    st.floats(-86400, 86400),
    st.lists(st.tuples(st.sampled_from(["renew", "sleep", "set", "other"]), st.floats(0, 1), st.floats(0, 3)), max_size=30),
)
@example(5.0, 0.0, [("sleep", 0.0625, 0.0)])
@example(5.0, 0.0, [("sleep", 0.0016, 0.0)] * 30)
def test_the_sure_time_is_never_too_long(lasts: float, wrong_by: float, events: list[tuple[str, float, float]]) -> None:
    clocks = Clocks(wrong_by)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(clocks, monkeypatch)
        service = ServiceClock()
        until = clocks.azure + lasts
        service.granted(until, clocks.monotonic())
        for event, part, delay in events:
            if event == "sleep":
                clocks.sleep(part * lasts)
            elif event == "set":
                # A correction by less than this cannot be told from a short sleep.
                clocks.wall += part * 7200
            elif event == "other":
                service.granted(clocks.azure + 5 + part * 295, clocks.monotonic())
            else:
                clocks.go_on(part * lasts)
                sent = clocks.monotonic()
                clocks.go_on(delay)
                if clocks.azure < until:
                    service.alive(until, sent)
                    until = clocks.azure + lasts
                    service.granted(until, sent)
                else:
                    until = clocks.azure + lasts
                    service.granted(until, clocks.monotonic())
            assert service.sure_left(until) <= max(0.0, until - clocks.azure) + 0.01


@pytest.fixture
def namespace(server: str) -> Iterator[Namespace]:
    with namespace_on(server) as namespace:
        namespace.create_queue(QUEUE, lock_duration=LOCK_DURATION)
        yield namespace


@pytest.mark.parametrize("step", [-7200.0, -60.0, 60.0, 7200.0])
def test_a_renewal_returns_the_time_that_the_lock_has_after_the_clock_was_set(
    namespace: Namespace, step: float, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("behind", BEHIND)
def test_a_lock_is_kept_and_its_end_never_late_while_the_clock_is_behind(
    namespace: Namespace, behind: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(SimpleNamespace(time=lambda: time.time() - behind, monotonic=time.monotonic), monkeypatch)
    namespace.create_queue("short", lock_duration=5.5)
    with (
        ServiceBusProvider.from_connection_string(namespace.connection_string) as provider,
        provider.create_session_client("short", "s1") as session,
    ):
        session.receive_message(timeout=0)
        started = time.monotonic()
        while time.monotonic() - started < 8.0:
            until = session.session_expires_at.timestamp()
            end = namespace.lock_end("short", "s1")
            assert end is not None
            assert until <= end + 0.05
            time.sleep(0.05)
        assert namespace.log["renew-session-lock"] > 0
        assert not session.is_lock_lost
        session.renew_session_lock()


def test_a_probe_shows_how_long_locks_last_and_leaves_nothing(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace.create_queue("short", lock_duration=6.5)
    use(SimpleNamespace(time=lambda: time.time() - 6.0, monotonic=time.monotonic), monkeypatch)
    with broker_on(namespace) as broker:
        clock = broker._registry.clock
        probe = LockProbe(broker._namespace, clock)
        # By the wall clock, the lock lasts 12.5 seconds. It is lost after 6.5.
        broker._loop.start(probe._probe("short", 11.0)).result(30)
        # Half of 11 seconds is short enough.
        assert 5.3 < clock.sure_left(time.time() + 6.5) <= 6.5
        eventually(lambda: not namespace.locked_sessions("short"))
        assert broker.list_sessions("short", None, 10).result() == []


def test_a_probe_begins_after_some_renewals_of_locks_that_may_last_longer(broker_renewing: list[str]) -> None:
    assert broker_renewing == ["a"]


@pytest.fixture
def broker_renewing(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues for which a probe began during renewals of locks of 60 and of 8 seconds."""
    namespace.create_queue("a", lock_duration=60.0)
    with broker_on(namespace) as broker:
        began: list[str] = []
        spawn = broker._loop.spawn

        def spawned(coroutine: Any) -> None:
            if coroutine.__name__ == "_probe":
                began.append(coroutine.cr_frame.f_locals["entity"])
                coroutine.close()
            else:
                spawn(coroutine)

        monkeypatch.setattr(broker._loop, "spawn", spawned)
        for entity in ("a", QUEUE):
            wait_for(broker.receive(ReceiveRequest(entity, "s1", "h", max_count=1, timeout=0.0)))
            for _ in range(9):
                broker.renew(entity, "s1", "h").result(10)
        return began
