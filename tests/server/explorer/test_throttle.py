"""The bound of wrong attempts."""

from __future__ import annotations

from azsession.server.explorer.throttle import ATTEMPTS_IN_ALL, ATTEMPTS_PER_ADDRESS, MAX_ADDRESSES, Throttle


class Now:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def test_an_address_has_an_allowance_that_fills_up_again() -> None:
    now = Now()
    throttle = Throttle(now)
    for _ in range(ATTEMPTS_PER_ADDRESS):
        assert throttle.wait("192.0.2.1") == 0
        throttle.count("192.0.2.1")
    assert throttle.wait("192.0.2.1") == 6
    assert throttle.wait("192.0.2.2") == 0
    now.time += 6
    assert throttle.wait("192.0.2.1") == 0
    throttle.count("192.0.2.1")
    assert throttle.wait("192.0.2.1") == 6
    now.time += 60
    assert [throttle.count("192.0.2.1") or throttle.wait("192.0.2.1") for _ in range(ATTEMPTS_PER_ADDRESS)][-2:] == [0, 6]


def test_the_addresses_of_an_ipv6_network_count_as_one() -> None:
    throttle = Throttle(Now())
    for number in range(ATTEMPTS_PER_ADDRESS):
        throttle.count(f"2001:db8::{number:x}")
    assert throttle.wait("2001:db8::ffff") > 0
    assert throttle.wait("2001:db8:0:1::1") == 0


def test_an_ipv4_address_in_an_ipv6_socket_counts_as_itself() -> None:
    throttle = Throttle(Now())
    for _ in range(ATTEMPTS_PER_ADDRESS):
        throttle.count("::ffff:192.0.2.1")
    assert throttle.wait("192.0.2.1") > 0
    assert throttle.wait("::ffff:192.0.2.2") == 0


def test_all_addresses_together_are_bounded_and_few_are_remembered() -> None:
    now = Now()
    throttle = Throttle(now)
    for number in range(ATTEMPTS_IN_ALL):
        throttle.count(f"10.0.{number // 256}.{number % 256}")
    assert throttle.wait("192.0.2.9") > 0
    now.time += 60
    assert throttle.wait("192.0.2.9") == 0
    for number in range(MAX_ADDRESSES + 100):
        throttle.count(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}")
    assert len(throttle._used) <= MAX_ADDRESSES


def test_requests_without_an_address_count_as_one() -> None:
    throttle = Throttle(Now())
    for _ in range(ATTEMPTS_PER_ADDRESS):
        throttle.count("")
    assert throttle.wait("not an address") > 0
