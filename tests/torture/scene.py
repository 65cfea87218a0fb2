"""The processes of a torture run: a gateway with the embedded broker, a proxy, senders and consumers."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from azsession import PeekedMessage, QueueSettings, ServiceBusProvider
from azsession.errors import QueueError

from ..support.paths import ROOT
from ..support.ports import free_port
from . import clockshim
from .disk import SmallDisk
from .history import Recorder
from .process import Process
from .proxy import Proxy
from .rules import Rules
from .worker import HOST, LOCK_DURATION, QUEUE

KEY = "dG9ydHVyZSB0b3J0dXJlIHRvcnR1cmUgdG9ydHVyZSE="
#: Few, so that some messages are dead-lettered after failed deliveries.
MAX_DELIVERY_COUNT = 3
SENDERS, CONSUMERS = 2, 4


class Scene:
    """All processes of a run. `Chaos` injects faults into them, from several threads.

    Args:
        folder: Keeps the data file, the histories and the log.
        seed: Seed of the faults and of the work.
        pause: Average number of seconds between two sends of a thread.

    Attributes:
        gateway_fault: Held during a fault of the gateway's process.
        disk_fault: Held while the data file cannot be written. A thread that holds `gateway_fault` may take it, not the
            reverse.
    """

    def __init__(self, folder: Path, seed: int, *, pause: float = 0.1) -> None:
        self.folder = folder
        self.seed = seed
        self._pause = pause
        self._numbers = 0
        self.gateway_fault = threading.Lock()
        self.disk_fault = threading.Lock()
        self.recorder = Recorder(folder / "scene.history", "scene")
        self._log = (folder / "log").open("wb")
        self.disk = SmallDisk.create(folder) if self.has_file else None
        self.data = (folder if self.disk is None else self.disk.place) / "data.db"
        self._dns_broken = folder / "dns-broken"
        self.clocks = [folder / "clock-gateway", folder / "clock-workers"]
        self.has_clocks = not clockshim.unavailable()
        self.port = free_port()
        self.proxy = Proxy(self.port, seed, on_fault=self.record_fault)
        self.direct = ServiceBusProvider.from_connection_string(self.connection_string(self.port, "127.0.0.1"))
        self.gateway: Process | None = None
        self._reserve: Process | None = None
        self.senders: list[Process] = []
        self.consumers: list[Process] = []

    def __enter__(self) -> Scene:
        try:
            self.start_gateway()
            self.prepare()
            self.senders += [self.start_worker("send") for _ in range(SENDERS)]
            self.consumers += [self.start_worker("consume") for _ in range(CONSUMERS)]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Overridden for Azure

    #: A refused receipt means that its message was not settled.
    strict = True
    rules = Rules()
    has_file = True

    def prepare(self) -> None:
        """Create the queue."""
        settings = QueueSettings(lock_duration=LOCK_DURATION, max_delivery_count=MAX_DELIVERY_COUNT)
        self.direct.create_queue(QUEUE, settings)

    def gateway_command(self) -> list[str]:
        return ["serve", "--data", str(self.data)]

    # Parts

    def connection_string(self, port: int, host: str = HOST) -> str:
        return f"Endpoint=http://{host}:{port}/;SharedAccessKeyName=root;SharedAccessKey={KEY}"

    def record_fault(self, fault: str) -> None:
        """Record that a fault is injected."""
        self.recorder.record_event("fault", kind=fault)

    def environment(self, clock: int) -> dict[str, str]:
        return clockshim.environment(self.clocks[clock]) if self.has_clocks else {}

    def start_gateway(self) -> None:
        """Wait until the data file can be written, and start the gateway on its port. Return when it accepts requests."""
        options = ["--port", str(self.port), "--hostname", HOST, "--key", f"root:{KEY}:Manage"]
        with self.disk_fault:
            self.gateway, self._reserve = self._reserve or self._prepare_gateway(), None
            self.gateway.send_json(arguments=[*self.gateway_command(), *options])
            has_started = bool(self.gateway.first_line())
        self._reserve = self._prepare_gateway()
        if not has_started:
            raise RuntimeError(f"the gateway did not start: {self.gateway.popen.wait()}, see {self.folder / 'log'}")

    def _prepare_gateway(self) -> Process:
        return Process(["tests.torture.gateway"], "gateway", self._log, self.environment(0))

    def start_worker(self, role: str) -> Process:
        self._numbers += 1
        name = f"{role[0]}{self._numbers}"
        worker = Process(["tests.torture.worker", role, name], name, self._log, self.environment(1))
        worker.send_json(
            history=str(self.folder / f"{name}.history"),
            connection_string=self.connection_string(self.proxy.port),
            dns_broken=str(self._dns_broken),
            seed=self.seed * 100 + self._numbers,
            pause=self._pause,
            request_timeout=4,
            strict=self.strict,
        )
        return worker

    # Faults

    def kill_gateway(self) -> None:
        assert self.gateway is not None
        self.recorder.record_event("gateway-down", how="killed")
        self.gateway.kill()
        self.recorder.record_event("gateway-down", how="killed")

    def end_gateway(self) -> None:
        """End the gateway with SIGTERM."""
        assert self.gateway is not None
        self.recorder.record_event("gateway-down", how="ended")
        status = self.gateway.end(by_signal=True)
        self.recorder.record_event("gateway-down", how="ended")
        if status != 0:
            raise RuntimeError(f"the gateway ended with {status} at SIGTERM")

    def kill_worker(self, workers: list[Process], number: int) -> None:
        """Kill a worker and start another one instead."""
        # Recorded before: the gateway may notice the end of the process before this thread continues.
        self.recorder.record_event("killed", victim=workers[number].name)
        workers[number].kill()
        workers[number] = self.start_worker("send" if workers is self.senders else "consume")

    def break_dns(self, broken: bool) -> None:
        if broken:
            self._dns_broken.touch()
        else:
            self._dns_broken.unlink(missing_ok=True)

    def step_clock(self, which: int, seconds: float) -> None:
        clockshim.set_offset(self.clocks[which], seconds)

    def copy_data(self) -> dict[str, bytes]:
        """Return the contents of the data file and its log, by the suffix of their names. No gateway may run."""
        sources = {suffix: self.data.with_name(self.data.name + suffix) for suffix in ("", "-wal")}
        return {suffix: source.read_bytes() for suffix, source in sources.items() if source.exists()}

    def open_damaged(self, files: dict[str, bytes], chance: random.Random) -> str:
        """Damage a copy of the data file. Check that a gateway refuses it or serves intact messages. Return the damage.

        Args:
            files: The copy.
            chance: The source of the damage.
        """
        copy = self.folder / "damaged.db"
        for suffix in ("", "-wal", "-shm"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)
            if suffix in files:
                copy.with_name(copy.name + suffix).write_bytes(files[suffix])
        whole = files[""]
        how = chance.choice(["cut", "page", "header", "zeros"])
        at = chance.randrange(0, len(whole), 4096)
        if how == "cut":
            damaged = whole[: chance.randrange(1, len(whole))]
        elif how == "header":
            damaged = chance.randbytes(100) + whole[100:]
        else:
            damaged = whole[:at] + (chance.randbytes(4096) if how == "page" else bytes(4096)) + whole[at + 4096 :]
        copy.write_bytes(damaged)
        command = [
            sys.executable,
            "-m",
            "azsession",
            "serve",
            "--data",
            str(copy),
            "--port",
            "0",
            "--key",
            f"root:{KEY}:Manage",
        ]
        gateway = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert gateway.stdout is not None
        line = gateway.stdout.readline().decode().strip()
        if line:
            self._read_all(line)
            gateway.kill()
        _, errors = gateway.communicate()
        if not line and (gateway.returncode != 1 or b"Traceback" in errors or copy.read_bytes() != damaged):
            raise RuntimeError(f"a damaged file ({how}) was not refused correctly: {gateway.returncode}, {errors!r}")
        return how

    def _read_all(self, connection_string: str) -> None:
        with ServiceBusProvider.from_connection_string(connection_string, retry_attempts=0) as provider:
            try:
                for session in provider.list_sessions(QUEUE):
                    provider.peek_messages(QUEUE, session.session_id, 1000)
            except QueueError as error:
                # The gateway may find the damage only when it reads the damaged page.
                if error.code == "InternalError":
                    raise RuntimeError(f"a damaged file made the gateway fail: {error}") from error

    # End of the run

    def drain(self, seconds: float) -> bool:
        """Stop the senders and let the consumers empty the queue. Return whether they did."""
        for sender in self.senders:
            sender.end()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with suppress(QueueError):
                if self.is_empty():
                    break
            time.sleep(0.2)
        drained = self.is_empty()
        for consumer in self.consumers:
            consumer.end()
        return drained

    def is_empty(self) -> bool:
        """Tell whether no message waits for a consumer. Deferred messages and dead letters do not count."""
        return not self.direct.get_queue(QUEUE).active_count

    def record_leftover(self) -> None:
        """Record the messages that are left in the queue."""
        for session in self.direct.list_sessions(QUEUE):
            start = 0
            while messages := self.direct.peek_messages(QUEUE, session.session_id, 250, start):
                self._note_left(session.session_id, messages)
                start = (messages[-1].sequence_number or 0) + 1
        start = 0
        while letters := self.direct.dead_letters(QUEUE, 250, start):
            for letter in letters:
                self._note_left(letter.session_id or "", [letter])
            start = (letters[-1].sequence_number or 0) + 1

    def _note_left(self, session: str, messages: list[PeekedMessage]) -> None:
        for where, state in (("active", "Active"), ("deferred", "Deferred"), ("dead", "DeadLettered")):
            found = [
                [each.message_id, each.sequence_number, each.delivery_count, each.dead_letter_reason]
                for each in messages
                if each.state == state
            ]
            if found:
                self.recorder.record_event(
                    "left", session=session, where=where, messages=found, max_delivery_count=MAX_DELIVERY_COUNT
                )

    def close(self) -> None:
        """Kill all processes and remove the disk."""
        self.direct.close()
        for process in (*self.senders, *self.consumers, self.gateway, self._reserve):
            if process is not None and process.popen.poll() is None:
                process.resume()
                process.kill()
        self.proxy.close()
        self._log.close()
        if self.disk is not None:
            self.disk.close()
