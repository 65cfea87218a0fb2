"""The processes of a torture run with Azure: the stand-in, a gateway, and a TCP proxy between them that can be cut."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from .faults import Fault
from .rules import Rules
from .scene import LOCK_DURATION, MAX_DELIVERY_COUNT, Process, Scene
from .wire import Wire
from .worker import QUEUE


class AzureScene(Scene):
    """A scene whose messages are in the stand-in for Azure. The stand-in is a process that gets no faults."""

    strict = has_file = False
    #: A gateway in front of Azure remembers requests and receipts only while it runs, and a lost link can end a lock.
    rules = Rules(doubled_sends=True, locks_outlast=False, kills_count=False, fetches_ahead=True)

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        command = ["tests.standin", "--queue", QUEUE, "--lock-duration", str(LOCK_DURATION)]
        command += ["--max-delivery-count", str(MAX_DELIVERY_COUNT)]
        self._standin = Process(command, "standin", self._log, {})
        started = json.loads(self._standin.first_line())
        self.wire = Wire(started["port"])
        self._azure = str(started["connection_string"]).replace(f":{started['port']}", f":{self.wire.port}")

    def gateway_command(self) -> list[str]:
        return ["serve", "--azure", self._azure]

    def prepare(self) -> None:
        """Do nothing: the stand-in has created the queue."""

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


def wire_faults(scene: AzureScene) -> dict[str, Fault]:
    """Return the faults of the connection between the gateway and Azure."""

    def stall(chance: random.Random) -> None:
        scene.wire.stall(True)
        time.sleep(chance.uniform(0.2, LOCK_DURATION * 1.5))
        scene.recorder.record_event("link-down")
        scene.wire.stall(False)

    def cut(chance: random.Random) -> None:
        scene.recorder.record_event("link-down")
        scene.wire.cut_all()
        scene.recorder.record_event("link-down")

    return {"link to Azure cut": cut, "link to Azure stalled": stall}
