"""The AMQP endpoint with the SDK for Python: memory when idle, 1,000 held sessions, and messages a second.

The peer of the last figures is the stand-in on qpid-proton, in a process of its own, with the same client and the same work.
It needs the extra `standin`, which needs a C compiler. Without it, the endpoint's own figures are printed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from azure.servicebus import ServiceBusClient, ServiceBusMessage

from .common import QUEUE, Figure, arguments, interleaved, processor_time, show
from .standin import PEER, namespace, sdk_receiver

#: The greatest memory of an idle `azsession serve` with both protocols, in bytes.
IDLE_TARGET = 60e6


@contextmanager
def _served(*, in_memory: bool = False) -> Iterator[tuple[str, psutil.Process]]:
    """Run ``azsession serve`` with both protocols, on a data file or in memory.

    Gives the connection string for SDKs, and the process.
    """
    with tempfile.TemporaryDirectory(prefix="azsession-bench-") as folder:
        place = ["--memory"] if in_memory else ["--data", str(Path(folder) / "data.db")]
        command = [sys.executable, "-m", "azsession", "serve", *place, "--queue", QUEUE]
        command += ["--port", "0", "--amqp-port", "0", "--key-file", str(Path(folder) / "keys")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline().strip() for _ in range(2)]
            if not lines[1].startswith("Endpoint=sb://"):
                raise SystemExit("azsession serve did not start")
            try:
                yield lines[1], psutil.Process(process.pid)
            finally:
                process.terminate()


def _idle() -> float:
    """Return the memory of a server that nobody uses, in bytes."""
    with _served() as (_, process):
        time.sleep(2.0)
        return float(process.memory_info().rss)


def _hold(sessions: int, seconds: int) -> Figure:
    """Hold sessions with one client of the SDK, which opens a connection for each."""
    with _served() as (where, process), ServiceBusClient.from_connection_string(where) as client:
        memory, threads, began, cpu = (
            process.memory_info().rss,
            process.num_threads(),
            time.monotonic(),
            processor_time(process),
        )
        receivers = [client.get_queue_receiver(QUEUE, session_id=f"held-{number}") for number in range(sessions)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda receiver: receiver.__enter__(), receivers))
            taken, attached = time.monotonic() - began, processor_time(process) - cpu
            held, more = process.memory_info().rss, process.num_threads() - threads
            cpu, began = processor_time(process), time.monotonic()
            time.sleep(seconds)
            share = (processor_time(process) - cpu) / (time.monotonic() - began)
            list(pool.map(lambda receiver: receiver.close(), receivers))
    return Figure(
        f"{sessions} sessions held for {seconds} s by one process of the SDK: the server",
        "",
        f"{held / 1e6:.0f} MB ({(held - memory) / max(1, sessions) / 1e3:.1f} kB each), {more} threads more,\n"
        f"          {share:.1%} of a core; attached in {taken:.1f} s, {attached:.1f} s of its processor time",
        None,
        "none; reported",
    )


def _batches(where: str, count: int) -> Callable[[], float]:
    """Return a measure: messages a second that the SDK sends in batches of 100, receives 100 at a time, and completes."""
    body = b"x" * 256

    def measure() -> float:
        with ServiceBusClient.from_connection_string(where, keep_alive=None) as client:
            began = time.perf_counter()
            with client.get_queue_sender(QUEUE) as sender:
                for _ in range(count // 100):
                    sender.send_messages([ServiceBusMessage(body, session_id="s") for _ in range(100)])
            done = 0
            with sdk_receiver(client, QUEUE, "s") as receiver:
                while done < count:
                    for message in receiver.receive_messages(100):
                        receiver.complete_message(message)
                        done += 1
            return count / (time.perf_counter() - began)

    return measure


def main() -> None:
    """Run the benchmark, and print its figures."""
    options = arguments("amqp_endpoint", __doc__ or "", rounds=3, sessions=1000, seconds=10, count=2000)
    idle = interleaved(options.rounds, idle=_idle)["idle"]
    figures = [
        Figure(
            "memory of an idle `azsession serve` with both protocols",
            "",
            f"{idle / 1e6:.1f} MB",
            None,
            f"under {IDLE_TARGET / 1e6:.0f} MB",
            idle < IDLE_TARGET,
        ),
        _hold(options.sessions, options.seconds),
    ]
    with ExitStack() as stack:
        servers = {name: stack.enter_context(_served(in_memory=name == "memory"))[0] for name in ("file", "memory")}
        if importlib.util.find_spec("proton") is not None:
            servers["peer"] = stack.enter_context(namespace(QUEUE)).connection_string
        found = interleaved(options.rounds, **{name: _batches(where, options.count) for name, where in servers.items()})
    peer = found.get("peer")
    figures += [
        Figure(
            f"{options.count} messages of 256 bytes with the SDK, {place}: sent and received by 100, completed one by one",
            f"{peer:.0f} messages a second on the stand-in, in memory" if peer else "the stand-in is missing",
            f"{found[name]:.0f} messages a second",
            found[name] / peer if peer else None,
            f"none; reported ({PEER})",
        )
        for name, place in (("memory", "in memory"), ("file", "on a data file"))
    ]
    show("amqp_endpoint", figures)


if __name__ == "__main__":
    main()
