"""`azsession celery-dispatch`: turns sessions with messages into Celery tasks."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from .._extras import need
from ..errors import ConfigurationError
from .common import note, plural


@click.command("celery-dispatch", short_help="Send a Celery task for each session that has messages.")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("-A", "--app", "app_name", required=True, metavar="MODULE:APP", help="The Celery app, as for celery -A.")
@click.option(
    "--interval", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option(
    "--remember",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds in which no second task is sent for a session that has not moved.",
)
@click.option("--once", is_flag=True, help="Look once, and end.")
def celery_dispatch(queues: Sequence[str], app_name: str, interval: float, remember: float, once: bool) -> None:
    """Send a task for each session of each QUEUE that has messages and no holder: the app's session task of that queue.

    Without QUEUE, for all queues that the app has session tasks for. The app's configuration says where they are. SIGTERM
    and Ctrl-C end it.
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
            with _until_told_to_end() as sleep:
                count = dispatcher.run(sleep, interval)
    except OperationalError as error:
        raise click.ClickException(f"Celery's broker cannot be reached: {error}") from None
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
        raise ConfigurationError(f"{name!r} is a {type(found).__name__}, no Celery app")
    return found


@contextmanager
def _until_told_to_end() -> Iterator[Callable[[float], bool]]:
    """Yield what sleeps, and returns true once SIGTERM or SIGINT came, where this is the main thread."""
    # Which a signal's handler can put into, whatever the thread that it interrupts is in.
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
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, _: signals.put(number)) for number in numbers}
    try:
        yield sleep
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
