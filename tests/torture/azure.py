"""The processes of a torture run in front of Azure: its stand-in, a gateway on it, and a wire between that can be cut."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from .checker import Rules
from .faults import Fault
from .scene import LOCK_DURATION, MAX_DELIVERY_COUNT, Process, Scene
from .wire import Wire
from .worker import QUEUE


class AzureScene(Scene):
    """A scene whose messages are in the stand-in, which is a process of its own and does not fail."""

    strict = has_file = False
    #: A gateway remembers requests and receipts only while it runs, and a link may end a lock.
    rules = Rules(doubled_sends=True, counts_all=False, locks_outlast=False)

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        command = ["tests.standin", "--queue", QUEUE, "--lock-duration", str(LOCK_DURATION)]
        command += ["--max-delivery-count", str(MAX_DELIVERY_COUNT)]
        self._standin = Process(command, "standin", self._log, {})
        told = json.loads(self._standin.first_line())
        self.wire = Wire(told["port"])
        self._azure = str(told["connection_string"]).replace(f":{told['port']}", f":{self.wire.port}")

    def gateway_command(self) -> list[str]:
        return ["azsession", "serve", "--azure", self._azure]

    def prepare(self) -> None:
        """Its queue is there."""

    def is_empty(self) -> bool:
        sessions = self.direct.list_sessions(QUEUE)
        return not any(
            message.state == "Active"
            for session in sessions
            for message in self.direct.peek_messages(QUEUE, session.session_id, 250)
        )

    def close(self) -> None:
        super().close()
        self.wire.close()
        self._standin.kill()


def of_wire(scene: AzureScene) -> dict[str, Fault]:
    """Return what can be done between the gateway and Azure."""

    def stall(chance: random.Random) -> None:
        scene.wire.stall(True)
        time.sleep(chance.uniform(0.2, LOCK_DURATION * 1.5))
        scene.recorder.happened("link-down")
        scene.wire.stall(False)

    def cut(chance: random.Random) -> None:
        scene.recorder.happened("link-down")
        scene.wire.cut_all()
        scene.recorder.happened("link-down")

    return {"link to Azure cut": cut, "link to Azure stalled": stall}
