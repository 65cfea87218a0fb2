"""What is done to a `Scene`, at random instants: three threads, one for the gateway, one for the workers, one for names."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from .scene import LOCK_DURATION, Scene

#: What is done to the gateway's process, its file and its clock.
GATEWAY_FAULTS = (
    "gateway killed",
    "gateway ended",
    "gateway paused",
    "disk full",
    "file read-only",
    "file damaged",
    "gateway's clock stepped",
)
#: What is done to senders and consumers.
WORKER_FAULTS = ("consumer killed", "consumer paused", "sender killed", "workers' clock stepped")
#: What is done to names.
NAME_FAULTS = ("DNS failure",)


class Chaos:
    """Does one fault after the other until it is stopped. What goes wrong in doing so is kept in `errors`.

    Args:
        scene: Whom to do it to.
        quiet: Seconds between two faults of a thread, at the most.
    """

    def __init__(self, scene: Scene, quiet: float = 3.0) -> None:
        self._scene = scene
        self._quiet = quiet
        self._ended = threading.Event()
        self.errors: list[BaseException] = []
        kinds = (self._possible(GATEWAY_FAULTS), WORKER_FAULTS, NAME_FAULTS)
        self._threads = [
            threading.Thread(target=self._run, args=(each, random.Random(f"{scene.seed}/{number}")), daemon=True)
            for number, each in enumerate(kinds)
        ]
        self._do: dict[str, Callable[[random.Random], None]] = {
            "gateway killed": self._kill_gateway,
            "gateway ended": self._end_gateway,
            "gateway paused": lambda chance: self._pause(True, chance),
            "disk full": self._fill_disk,
            "file read-only": self._protect,
            "file damaged": self._damage,
            "gateway's clock stepped": lambda chance: self._step(0, chance),
            "consumer killed": lambda chance: scene.kill_worker(scene.consumers, chance.randrange(len(scene.consumers))),
            "consumer paused": lambda chance: self._pause(False, chance),
            "sender killed": lambda chance: scene.kill_worker(scene.senders, chance.randrange(len(scene.senders))),
            "workers' clock stepped": lambda chance: self._step(1, chance),
            "DNS failure": self._break_names,
        }

    def _possible(self, faults: tuple[str, ...]) -> tuple[str, ...]:
        missing = set() if self._scene.disk is not None else {"disk full", "file read-only"}
        return tuple(fault for fault in faults if fault not in missing)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End with the fault in hand."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _run(self, faults: tuple[str, ...], chance: random.Random) -> None:
        try:
            while not self._ended.wait(chance.uniform(0.2, self._quiet)):
                fault = chance.choice(faults)
                self._scene.injected(fault)
                self._do[fault](chance)
        except BaseException as error:
            self.errors.append(error)

    def _rest(self, chance: random.Random, longest: float) -> None:
        time.sleep(chance.uniform(0.2, longest))

    def _kill_gateway(self, chance: random.Random) -> None:
        self._scene.kill_gateway()
        self._scene.start_gateway()

    def _end_gateway(self, chance: random.Random) -> None:
        self._scene.end_gateway()
        self._scene.start_gateway()

    def _pause(self, of_gateway: bool, chance: random.Random) -> None:
        scene = self._scene
        process = scene.gateway if of_gateway else chance.choice(scene.consumers)
        assert process is not None
        process.pause()
        # Now and then for longer than a lock lasts.
        self._rest(chance, 2.0 if chance.random() < 0.7 else LOCK_DURATION * 1.5)
        process.go_on()

    def _fill_disk(self, chance: random.Random) -> None:
        assert self._scene.disk is not None
        self._scene.disk.fill()
        self._rest(chance, 3.0)
        if chance.random() < 0.3:
            self._scene.kill_gateway()
            self._scene.disk.free()
            self._scene.start_gateway()
        self._scene.disk.free()

    def _protect(self, chance: random.Random) -> None:
        assert self._scene.disk is not None
        self._scene.disk.protect(True)
        self._rest(chance, 3.0)
        self._scene.disk.protect(False)

    def _damage(self, chance: random.Random) -> None:
        self._scene.kill_gateway()
        try:
            self._scene.open_damaged(chance)
        finally:
            self._scene.start_gateway()

    def _step(self, which: int, chance: random.Random) -> None:
        if self._scene.has_clocks:
            self._scene.step_clock(which, chance.choice([-86400.0, -7200.0, -300.0, 300.0, 7200.0, 86400.0]))
            self._rest(chance, 3.0)
            self._scene.step_clock(which, 0.0)

    def _break_names(self, chance: random.Random) -> None:
        self._scene.break_dns(True)
        # Only new connections ask for the name.
        self._scene.proxy.cut_all()
        self._rest(chance, 2.0)
        self._scene.break_dns(False)
