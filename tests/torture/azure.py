"""The processes of a torture run with Azure: a namespace, a gateway, and a TCP proxy between them that can be cut."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from ..namespaces.choice import OWN
from .faults import Fault
from .rules import Rules
from .scene import LOCK_DURATION, MAX_DELIVERY_COUNT, Process, Scene
from .wire import Wire
from .worker import QUEUE


class AzureScene(Scene):
    """A scene whose messages are in a namespace: azsession's own AMQP endpoint, or the stand-in for Azure.

    The namespace is a process that gets no faults.

    Args:
        folder: The folder of the run.
        seed: The seed of the run.
        server: The name of the namespace's server; see `namespaces.choice`.
    """

    strict = has_file = False
    #: A gateway in front of Azure remembers requests and receipts only while it runs, and a lost link can end a lock.
    rules = Rules(doubled_sends=True, locks_outlast=False, kills_count=False, fetches_ahead=True)

    def __init__(self, folder: Path, seed: int, server: str = OWN) -> None:
        super().__init__(folder, seed)
        module = "tests.namespaces" if server == OWN else "tests.standin"
        command = [module, "--queue", QUEUE, "--lock-duration", str(LOCK_DURATION)]
        command += ["--max-delivery-count", str(MAX_DELIVERY_COUNT)]
        self._namespace = Process(command, "namespace", self._log, {})
        started = json.loads(self._namespace.first_line())
        self.wire = Wire(started["port"])
        self._azure = str(started["connection_string"]).replace(f":{started['port']}", f":{self.wire.port}")

    def gateway_command(self) -> list[str]:
        return ["serve", "--azure", self._azure]

    def prepare(self) -> None:
        """Do nothing: the namespace has created the queue."""

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
        self._namespace.kill()


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
