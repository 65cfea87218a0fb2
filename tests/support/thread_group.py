"""A group of threads for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class ThreadGroup:
    """Threads whose exceptions are kept. `join` fails if a thread hangs."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, work: Callable[..., object], *args: Any) -> None:
        def run() -> None:
            try:
                work(*args)
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self, seconds: float = 60) -> None:
        for thread in self.threads:
            thread.join(seconds)
            assert not thread.is_alive(), "a thread hangs"
