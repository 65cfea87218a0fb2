"""`ProcessProvider`: one provider for each process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from azsession import ConfigurationError, ServiceBusProvider
from azsession.contrib.process_provider import ProcessProvider
from azsession.contrib.provider_setting import ProviderSetting, Style, read

from ..interrupts.conftest import InterruptError, interrupted_in
from ..interrupts.sweep import Interrupter
from .places import GATEWAY

STYLE = Style("conf")


class SlowSetting:
    """Settings whose reading waits until a test lets it go on."""

    def __init__(self) -> None:
        self.value: object = GATEWAY
        self.reads = 0
        self.began = threading.Event()
        self.go = threading.Event()

    def read(self) -> ProviderSetting:
        self.reads += 1
        setting = read(self.value, STYLE)
        self.began.set()
        assert self.go.wait(30)
        return setting


def test_threads_that_ask_while_another_makes_the_provider_get_the_same() -> None:
    setting = SlowSetting()
    process = ProcessProvider(setting.read)
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(process.get) for _ in range(4)]
        assert setting.began.wait(30)
        setting.go.set()
        assert len({id(future.result()) for future in futures}) == 1
    assert setting.reads == 1
    process.close()


def test_close_waits_for_a_thread_that_makes_the_provider() -> None:
    setting = SlowSetting()
    process = ProcessProvider(setting.read)
    with ThreadPoolExecutor(2) as threads:
        making = threads.submit(process.get)
        assert setting.began.wait(30)
        closing = threads.submit(process.close)
        setting.value = {"embedded": "memory"}
        setting.go.set()
        closing.result(30)
        stale: ServiceBusProvider = making.result(30)
    with pytest.raises(ConfigurationError, match="closed"):
        stale.create_session_client("q", "s")
    assert "embedded" in repr(process.get())
    process.close()


def test_after_an_error_the_next_use_reads_the_settings_again() -> None:
    setting = SlowSetting()
    setting.go.set()
    process = ProcessProvider(setting.read)
    setting.value = 5
    with pytest.raises(ConfigurationError, match="must be a dict"):
        process.get()
    setting.value = GATEWAY
    assert process.get() is process.get()
    process.close()


def test_an_interrupt_while_the_provider_is_made_leaves_nothing_behind() -> None:
    """Each line is interrupted in turn, and a second thread must get a provider afterwards."""
    setting = SlowSetting()
    setting.go.set()
    lines = Interrupter(0)
    process = ProcessProvider(setting.read)
    lines.run(process.get)
    process.close()
    for at in range(1, lines.lines + 1, max(1, lines.lines // 40)):
        process = ProcessProvider(setting.read)
        Interrupter(at).run(process.get)
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(process.get).result(30) is process.get()
        process.close()


def test_a_close_that_was_interrupted_can_be_repeated() -> None:
    setting = SlowSetting()
    setting.go.set()
    process = ProcessProvider(setting.read)
    provider = process.get()
    with interrupted_in("_end_sessions"), pytest.raises(InterruptError):
        process.close()
    process.close()
    assert repr(provider).endswith("closed>")
    assert process.get() is not provider
    process.close()


@pytest.mark.parametrize("name", ["_make", "make_provider"])
def test_after_an_interrupt_another_thread_makes_the_provider(name: str) -> None:
    setting = SlowSetting()
    setting.go.set()
    process = ProcessProvider(setting.read)
    with interrupted_in(name) as entered, pytest.raises(InterruptError):
        process.get()
    assert entered
    found: list[ServiceBusProvider] = []
    thread = threading.Thread(target=lambda: found.append(process.get()), daemon=True)
    thread.start()
    thread.join(30)
    assert found == [process.get()]
    process.close()
