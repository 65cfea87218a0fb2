"""The threads of a processor: how they are counted, and their errors."""

from __future__ import annotations

import threading

import pytest

from azsession.processor.slot_threads import SlotThreads

from ..client.renewals import refuse
from ..conftest import eventually
from ..interrupts.sweep import BytecodeInterrupter
from .helpers import Gate


def test_the_end_is_told_once_by_the_last_thread() -> None:
    ends: list[str] = []
    gates = [Gate(), Gate()]
    threads = SlotThreads(lambda error: None, lambda: ends.append(threading.current_thread().name))
    for gate in gates:
        threads.start(gate)
    gates[0].opened.set()
    threads.release()
    eventually(lambda: len([each for each in threading.enumerate() if each.name.startswith("azsession-processor-")]) == 1)
    assert ends == []
    gates[1].opened.set()
    threads.join()
    assert ends == ["azsession-processor-2"]


def test_a_thread_that_ends_before_the_others_start_does_not_tell_the_end() -> None:
    ends: list[bool] = []
    threads = SlotThreads(lambda error: None, lambda: ends.append(True))
    threads.start(lambda: None).join(30)
    assert ends == []
    threads.release()
    assert ends == [True]


def test_the_exception_of_a_thread_is_told() -> None:
    failed: list[BaseException] = []
    threads = SlotThreads(failed.append, lambda: None)
    error = KeyboardInterrupt()

    def work() -> None:
        raise error

    threads.start(work).join(30)
    assert failed == [error]


def test_a_thread_that_cannot_start_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[bool] = []
    threads = SlotThreads(lambda error: None, lambda: ends.append(True))
    refuse(monkeypatch, "azsession-processor-1")
    with pytest.raises(RuntimeError):
        threads.start(lambda: None)
    threads.release()
    assert ends == [True]


def test_a_start_that_is_interrupted_anywhere_counts_the_thread_only_if_it_works() -> None:
    def scenario(at: int) -> bool:
        worked: list[bool] = []
        ended = threading.Event()
        threads = SlotThreads(lambda error: None, ended.set)
        interrupter = BytecodeInterrupter(at)
        interrupter.run(lambda: threads.start(lambda: worked.append(True)))
        threads.release()
        assert ended.wait(30), interrupter.where
        threads.join()
        assert worked or interrupter.where is not None
        return interrupter.where is not None

    assert all(scenario(at) for at in range(1, 20))


def test_it_knows_its_own_threads() -> None:
    owns: list[bool] = []
    threads = SlotThreads(lambda error: None, lambda: None)
    threads.start(lambda: owns.append(threads.owns_current_thread())).join(30)
    assert owns == [True]
    assert not threads.owns_current_thread()


def test_a_forked_child_gets_another_lock() -> None:
    threads = SlotThreads(lambda error: None, lambda: None)
    with threads._lock:  # As a thread that does not exist in the child would hold it.
        threads.after_fork()
        threads.start(lambda: None).join(30)
