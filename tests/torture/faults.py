"""The faults of processes, files, clocks and names. Each function injects a fault into a `Scene` and ends it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from .scene import LOCK_DURATION, Process, Scene

#: Injects a fault and returns when the fault is over.
Fault = Callable[[random.Random], None]


def gateway_faults(scene: Scene) -> dict[str, Fault]:
    """Return the faults of the gateway process."""

    def kill(chance: random.Random) -> None:
        with scene.gateway_fault:
            scene.kill_gateway()
            scene.start_gateway()

    def end(chance: random.Random) -> None:
        with scene.gateway_fault:
            scene.end_gateway()
            scene.start_gateway()

    def pause(chance: random.Random) -> None:
        with scene.gateway_fault:
            assert scene.gateway is not None
            _pause(scene.gateway, chance)

    return {"gateway killed": kill, "gateway ended": end, "gateway paused": pause}


def clock_faults(scene: Scene) -> dict[str, Fault]:
    """Return the faults of the gateway's clock. Needs `Scene.has_clocks`."""
    return {"gateway's clock stepped": lambda chance: _step(scene, 0, chance)}


def copy_faults(scene: Scene) -> dict[str, Fault]:
    """Return the faults of a copy of the data file."""

    def damage(chance: random.Random) -> None:
        with scene.gateway_fault:
            scene.kill_gateway()
            files = scene.copy_data()
            scene.start_gateway()
        scene.open_damaged(files, chance)

    return {"file damaged": damage}


def disk_faults(scene: Scene) -> dict[str, Fault]:
    """Return the faults of the disk of the data file. There are none without `Scene.disk`."""
    disk = scene.disk
    if disk is None:
        return {}

    # Meanwhile, the gateway is also killed, ended and paused. It starts again when it can write.

    def fill(chance: random.Random) -> None:
        with scene.disk_fault:
            disk.fill()
            _rest(chance, 3.0)
            disk.free()

    def protect(chance: random.Random) -> None:
        with scene.disk_fault:
            disk.protect(True)
            _rest(chance, 3.0)
            disk.protect(False)

    return {"disk full": fill, "file read-only": protect}


def worker_faults(scene: Scene) -> dict[str, Fault]:
    """Return the faults of senders and consumers."""
    faults: dict[str, Fault] = {
        "consumer killed": lambda chance: scene.kill_worker(scene.consumers, chance.randrange(len(scene.consumers))),
        "consumer paused": lambda chance: _pause(chance.choice(scene.consumers), chance),
        "sender killed": lambda chance: scene.kill_worker(scene.senders, chance.randrange(len(scene.senders))),
    }
    return {**faults, "workers' clock stepped": lambda chance: _step(scene, 1, chance)} if scene.has_clocks else faults


def name_faults(scene: Scene) -> dict[str, Fault]:
    """Return the faults of name resolution."""

    def fail(chance: random.Random) -> None:
        scene.break_dns(True)
        # Only new connections resolve the name.
        scene.proxy.cut_all()
        _rest(chance, 1.0)
        scene.break_dns(False)

    return {"DNS failure": fail}


def _rest(chance: random.Random, longest: float) -> None:
    time.sleep(chance.uniform(0.2, longest))


def _pause(process: Process, chance: random.Random) -> None:
    process.pause()
    # Sometimes pause for longer than the lock duration.
    _rest(chance, 2.0 if chance.random() < 0.7 else LOCK_DURATION * 1.5)
    process.resume()


def _step(scene: Scene, which: int, chance: random.Random) -> None:
    scene.step_clock(which, chance.choice([-86400.0, -7200.0, -300.0, 300.0, 7200.0, 86400.0]))
    _rest(chance, 3.0)
    scene.step_clock(which, 0.0)
