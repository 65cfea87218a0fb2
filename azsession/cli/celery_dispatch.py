"""`azsession celery-dispatch`: sends a Celery task for each session that has messages."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from .._extras import need
from ..display import plural
from ..errors import ConfigurationError
from ..processor.processor import SIGNALS
from .common import note


@click.command("celery-dispatch", short_help="Send a Celery task for each session that has messages.")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("-A", "--app", "app_name", required=True, metavar="MODULE:APP", help="The Celery app, as for celery -A.")
@click.option(
    "--interval",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds between two dispatches.",
)
@click.option(
    "--remember",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds before another task is sent for a session whose first message is the same.",
)
@click.option("--once", is_flag=True, help="Dispatch once, and end.")
def celery_dispatch(queues: Sequence[str], app_name: str, interval: float, remember: float, once: bool) -> None:
    """Send the app's session task for each session of QUEUE that has messages and is not locked.

    Without QUEUE, it dispatches all queues that the app has session tasks for. The app's setting azsession says where the
    messages are. SIGTERM, SIGHUP and Ctrl-C end the command.
    """
    need("celery", "celery")
    from kombu.exceptions import OperationalError

    from ..contrib.celery import Dispatcher, close_provider

    app = _find(app_name)
    dispatcher = Dispatcher(app, queues, remember=remember)
    note(f"dispatching {', '.join(dispatcher.queue_names)}" + ("" if once else "; Ctrl-C ends it"))
    try:
        if once:
            count = dispatcher.dispatch()
        else:
            with _stoppable_sleep() as sleep:
                count = dispatcher.run(sleep, interval)
    except OperationalError as error:
        raise click.ClickException(f"Celery's broker cannot be reached, or refused a task: {error}") from None
    finally:
        close_provider(app)
    click.echo(f"{plural(count, 'task')} sent")


def _find(name: str) -> Any:
    from celery import Celery
    from celery.app.utils import find_app

    try:
        found = find_app(name)
    except Exception as error:
        raise ConfigurationError(f"the Celery app {name!r} cannot be imported: {type(error).__name__}: {error}") from None
    if not isinstance(found, Celery):
        raise ConfigurationError(f"{name!r} is not a Celery app: its type is {type(found).__name__}")
    return found


@contextmanager
def _stoppable_sleep() -> Iterator[Callable[[float], bool]]:
    """Yield a function that sleeps and returns whether a signal to end came. Signals need the main thread."""
    # A signal handler can safely call SimpleQueue.put, even if it interrupts another put.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def sleep(pause: float) -> bool:
        try:
            signals.get(timeout=pause)
        except queue.Empty:
            return False
        return True

    if threading.current_thread() is not threading.main_thread():
        yield sleep
        return
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: signals.put(number)) for number in numbers}
    try:
        yield sleep
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
