"""The commands `azsession queue` and `sessions`."""

from __future__ import annotations

from typing import Any

import attrs
import click

from ..display import plural
from ..queues import QueueInfo, QueueSettings
from .common import (
    QUEUE,
    CommandGroup,
    Connect,
    checked_options,
    client_options,
    note,
    show_id,
    show_instant,
    show_json,
    show_table,
)

_DEFAULTS = QueueSettings()


@click.group(cls=CommandGroup)
def queue() -> None:
    """Create, show, list and delete queues. Needs a key with the Manage right."""


@queue.command()
@click.argument("name", type=QUEUE)
@click.option(
    "--lock-duration",
    type=float,
    default=_DEFAULTS.lock_duration,
    show_default=True,
    metavar="SECONDS",
    help="Duration of a session's lock, 1 to 300.",
)
@click.option(
    "--max-delivery-count",
    type=int,
    default=_DEFAULTS.max_delivery_count,
    show_default=True,
    metavar="N",
    help="Dead-letter a message after this many failed deliveries, 1 to 2000.",
)
@click.option(
    "--default-time-to-live",
    type=float,
    metavar="SECONDS",
    help="Keep messages without their own time to live for this long. Default: forever.",
)
@click.option("--dead-letter-on-expiration", is_flag=True, help="Dead-letter expired messages instead of deleting them.")
@click.option("--requires-duplicate-detection", is_flag=True, help="Drop a message whose message id was sent before.")
@click.option(
    "--duplicate-detection-window",
    type=float,
    default=_DEFAULTS.duplicate_detection_window,
    show_default=True,
    metavar="SECONDS",
    help="Remember message ids for this long, 20 to 604800.",
)
@click.option(
    "--sessions-expire-together",
    is_flag=True,
    help="As on Azure: let messages expire only when their session is received from, and all of the session together.",
)
@client_options
def create(name: str, connect: Connect, as_json: bool, **settings: Any) -> None:
    """Create the queue NAME. Succeed if it exists with the same settings."""
    with checked_options():
        wanted = QueueSettings(**settings)
    with connect() as provider:
        new = provider.create_queue(name, wanted)
    if as_json:
        show_json({"name": name, "created": new})
    else:
        click.echo(f"created {name}" if new else f"{name} already exists with these settings")


@queue.command()
@click.argument("name", type=QUEUE)
@client_options
def show(name: str, connect: Connect, as_json: bool) -> None:
    """Show the message counts and the settings of the queue NAME."""
    with connect() as provider:
        found = provider.get_queue(name)
    if as_json:
        show_json(_queue_json(found))
    else:
        facts = {"active messages": found.active_count, "dead letters": found.dead_letter_count, **_settings(found)}
        show_table(("queue", found.name), [(fact, value) for fact, value in facts.items() if value is not None])


@queue.command(name="list")
@client_options
def list_queues(connect: Connect, as_json: bool) -> None:
    """List all queues and their settings."""
    with connect() as provider:
        queues = provider.list_queues()
    if as_json:
        for found in queues:
            show_json(_queue_json(found))
    elif queues:
        rows = [(found.name, *_settings(found).values()) for found in queues]
        show_table(("queue", *_settings(queues[0])), rows)
    else:
        note("there are no queues; create one with azsession queue create NAME")


@queue.command()
@click.argument("name", type=QUEUE)
@client_options
def delete(name: str, connect: Connect, as_json: bool) -> None:
    """Delete the queue NAME and all of its messages."""
    with connect() as provider:
        provider.delete_queue(name)
    if as_json:
        show_json({"name": name, "deleted": True})
    else:
        click.echo(f"deleted {name}")


def _queue_json(found: QueueInfo) -> dict[str, Any]:
    counts = {"active_count": found.active_count, "dead_letter_count": found.dead_letter_count}
    return {"name": found.name, **counts, **attrs.asdict(found.settings)}


def _settings(found: QueueInfo) -> dict[str, str]:
    """Return the settings of a queue as text for a table."""
    settings = found.settings
    time_to_live = settings.default_time_to_live
    window = f"{settings.duplicate_detection_window:g} s"
    return {
        "lock": f"{settings.lock_duration:g} s",
        "max deliveries": str(settings.max_delivery_count),
        "time to live": "forever" if time_to_live is None else f"{time_to_live:g} s",
        "expired messages": ("dead-lettered" if settings.dead_letter_on_expiration else "deleted")
        + (", all of a session together" if settings.sessions_expire_together else ""),
        "duplicates": f"dropped within {window}" if settings.requires_duplicate_detection else "kept",
    }


@click.command(short_help="List the sessions of a queue.")
@click.argument("queue", type=QUEUE)
@client_options
def sessions(queue: str, connect: Connect, as_json: bool) -> None:
    """List the sessions of QUEUE that have messages or state, and show who holds them, and until when."""
    with connect() as provider:
        found = provider.list_sessions(queue)
    if as_json:
        for info in found:
            show_json(attrs.asdict(info))
    elif found:
        rows = [
            (show_id(info.session_id), info.message_count, show_instant(info.locked_until), info.holder) for info in found
        ]
        show_table(("session", "messages", "locked until", "holder"), rows, numbers=["messages"])
        counts = [info.message_count for info in found if info.message_count is not None]
        messages = f"{plural(sum(counts), 'message')} in " if counts else ""
        note(f"{messages}{plural(len(found), 'session')}")
    else:
        note(f"{queue} has no sessions")
