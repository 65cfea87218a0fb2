"""The faults of processes, files, clocks and names: each is done to a `Scene`, and over when its function returns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from .scene import LOCK_DURATION, Process, Scene

#: Does a fault, from its begin to its end.
Fault = Callable[[random.Random], None]


def of_gateway(scene: Scene) -> dict[str, Fault]:
    """Return what can be done to any gateway."""

    def kill(chance: random.Random) -> None:
        scene.kill_gateway()
        scene.start_gateway()

    def end(chance: random.Random) -> None:
        scene.end_gateway()
        scene.start_gateway()

    def pause(chance: random.Random) -> None:
        assert scene.gateway is not None
        _pause(scene.gateway, chance)

    faults = {"gateway killed": kill, "gateway ended": end, "gateway paused": pause}
    return {**faults, "gateway's clock stepped": lambda chance: _step(scene, 0, chance)} if scene.has_clocks else faults


def of_file(scene: Scene) -> dict[str, Fault]:
    """Return what can be done to the data file."""

    def damage(chance: random.Random) -> None:
        scene.kill_gateway()
        try:
            scene.open_damaged(chance)
        finally:
            scene.start_gateway()

    disk = scene.disk
    if disk is None:
        return {"file damaged": damage}

    def fill(chance: random.Random) -> None:
        disk.fill()
        _rest(chance, 3.0)
        if chance.random() < 0.3:
            # Killed while it could write nothing more.
            scene.kill_gateway()
            disk.free()
            scene.start_gateway()
        disk.free()

    def protect(chance: random.Random) -> None:
        disk.protect(True)
        _rest(chance, 3.0)
        disk.protect(False)

    return {"file damaged": damage, "disk full": fill, "file read-only": protect}


def of_workers(scene: Scene) -> dict[str, Fault]:
    """Return what can be done to senders and consumers."""
    faults: dict[str, Fault] = {
        "consumer killed": lambda chance: scene.kill_worker(scene.consumers, chance.randrange(len(scene.consumers))),
        "consumer paused": lambda chance: _pause(chance.choice(scene.consumers), chance),
        "sender killed": lambda chance: scene.kill_worker(scene.senders, chance.randrange(len(scene.senders))),
    }
    return {**faults, "workers' clock stepped": lambda chance: _step(scene, 1, chance)} if scene.has_clocks else faults


def of_names(scene: Scene) -> dict[str, Fault]:
    """Return what can be done to the gateway's name."""

    def fail(chance: random.Random) -> None:
        scene.break_dns(True)
        # Only new connections ask for the name.
        scene.proxy.cut_all()
        _rest(chance, 1.0)
        scene.break_dns(False)

    return {"DNS failure": fail}


def _rest(chance: random.Random, longest: float) -> None:
    time.sleep(chance.uniform(0.2, longest))


def _pause(process: Process, chance: random.Random) -> None:
    process.pause()
    # Now and then for longer than a lock lasts.
    _rest(chance, 2.0 if chance.random() < 0.7 else LOCK_DURATION * 1.5)
    process.go_on()


def _step(scene: Scene, which: int, chance: random.Random) -> None:
    scene.step_clock(which, chance.choice([-86400.0, -7200.0, -300.0, 300.0, 7200.0, 86400.0]))
    _rest(chance, 3.0)
    scene.step_clock(which, 0.0)
