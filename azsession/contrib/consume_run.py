"""Runs a `SessionProcessor` as a command: announces it, runs it, sums it up, and decides on the exit status.

Used by `azsession consume`, ``flask azsession consume`` and Django's ``azsession_consume``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from .._extras import need
from ..display import plural
from ..errors import QueueError, ValidationError
from ..processor import ProcessorStats, SessionProcessor

#: Exit statuses of the commands. 0 means that the processor was told to stop, and that all functions finished in time.
FAILED, USED_WRONGLY = 1, 2


class ConsumeError(Exception):
    """The command failed.

    Attributes:
        status: The exit status.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def run_processor(
    queue: str,
    make_processor: Callable[[], SessionProcessor],
    *,
    note: Callable[[str], object],
    show: Callable[[ProcessorStats], object],
    watch: Callable[[SessionProcessor], AbstractContextManager[object]] = nullcontext,
    metrics_host: str = "127.0.0.1",
    metrics_port: int | None = None,
) -> None:
    """Run a processor until SIGTERM or Ctrl-C. Blocks.

    Args:
        queue: The queue's name, for the line that announces it.
        make_processor: Returns the processor.
        note: Called with each line before the run.
        show: Called with the counts at the end.
        watch: Returns a context in which the processor runs, for example a live view.
        metrics_host: The address of `metrics_port`.
        metrics_port: The port on which metrics are served, 0 to 65535; 0 takes a free one. `None`: there are none.

    Raises:
        ConsumeError: An argument is wrong (status 2). The processor cannot go on, or functions ran longer than the grace
            period (status 1).
    """
    try:
        processor = make_processor()
    except ValidationError as error:
        raise ConsumeError(str(error), USED_WRONGLY) from error
    except QueueError as error:
        raise ConsumeError(str(error), FAILED) from error
    try:
        with _metrics_served(processor, metrics_host, metrics_port, note), watch(processor):
            # Only now: a port may be taken.
            note(f"consuming {queue}; Ctrl-C ends it")
            processor.run()
    except QueueError as error:
        raise ConsumeError(str(error), FAILED) from error
    stats = processor.stats
    show(stats)
    if stats.sessions_open:
        released = "1 session was" if stats.sessions_open == 1 else f"{stats.sessions_open} sessions were"
        raise ConsumeError(f"{released} released although the handler was still running", FAILED)


@contextmanager
def _metrics_served(
    processor: SessionProcessor, host: str, port: int | None, note: Callable[[str], object]
) -> Iterator[None]:
    if port is None:
        yield
        return
    # Only here: they need an extra.
    need("prometheus_client", "metrics")
    from prometheus_client import CollectorRegistry, ProcessCollector

    from ..metrics_port import MetricsPort
    from ..processor.collector import ProcessorCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(ProcessorCollector(processor))
    with MetricsPort(registry, host, port) as served:
        note(f"metrics {served.url}")
        yield


def summary(stats: ProcessorStats) -> str:
    """Return the counts in one line, for example ``3 messages of 2 sessions done, 1 failed``."""
    parts = [f"{plural(stats.messages_done, 'message')} of {plural(stats.sessions_done, 'session')} done"]
    if stats.messages_failed:
        parts.append(f"{stats.messages_failed} failed")
    if stats.messages_dead_lettered:
        parts.append(f"{stats.messages_dead_lettered} dead-lettered")
    return ", ".join(parts)
