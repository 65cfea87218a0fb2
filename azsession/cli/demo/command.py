"""The command `azsession demo`: its options, and its JSON output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import click
from rich.console import Console

from ...display import plural
from ...errors import ValidationError
from ..common import console, show_json
from ..json_lines import read_lines

if TYPE_CHECKING:
    # These modules load the gateway, so the command imports them only when it runs.
    from .data import Sent
    from .verdict import Fault, Record


@click.command(short_help="Show sessions at work, and check their order.")
@click.option("--file", "file", type=click.File("rb"), help="Send each line of this JSON lines file; needs a session_id.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Number of threads that receive messages."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the generated messages.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def demo(file: BinaryIO | None, workers: int, seed: int, as_json: bool) -> None:
    """Send messages in many sessions, receive them with many workers, and check that every session is in order.

    The demo starts a gateway and its broker in this process, on a free port of 127.0.0.1 and in memory. One message takes
    longer than its session's lock lasts, one fails and is redelivered, and one is dead-lettered. The exit status is 1 if a
    session was out of order or a message was lost or doubled.
    """
    from .data import choose_roles, from_messages, make_orders
    from .display import live_view, show_result
    from .run import Run
    from .verdict import judge

    try:
        sent = make_orders(seed) if file is None else from_messages([line.message for line in read_lines(file)])
    except ValidationError as error:
        raise click.UsageError(str(error)) from error
    if not sent:
        raise click.UsageError(f"there is no message in {file.name if file else 'the demo'}")
    roles = choose_roles(sent, workers, seed)
    run = Run(sent, roles, workers)
    out = console()
    if not as_json:
        sessions = len({message.session_id for message in sent})
        counts = f"{plural(len(sent), 'message')} in {plural(sessions, 'session')}, {plural(workers, 'worker')}, over HTTP"
        out.print(f"[bold]azsession demo[/]: {counts}", soft_wrap=True)
    with live_view(run, Console(stderr=True) if as_json else out):
        record = run.run()
    faults = judge(sent, roles, record)
    if as_json:
        show_json(_result(sent, record, faults, workers, None if file else seed))
    else:
        show_result(out, sent, roles, record, faults)
    click.get_current_context().exit(1 if faults else 0)


def _result(
    sent: Sequence[Sent], record: Record, faults: Sequence[Fault], workers: int, seed: int | None
) -> dict[str, object]:
    places = {message.message_id: message.place for message in sent}
    dead_letters = [
        {
            "session_id": message.session_id,
            "place": places.get(message.message_id or ""),
            "reason": message.dead_letter_reason,
        }
        for message in record.leftover.dead_letters
    ]
    return {
        "ok": not faults,
        "messages": len(sent),
        "workers": workers,
        "seed": seed,
        "seconds": round(record.seconds, 3),
        "active_left": record.leftover.active,
        "dead_letters": dead_letters,
        "faults": [{"kind": fault.kind, "session_id": fault.session_id, "text": fault.text} for fault in faults],
        "sessions": _session_results(sent, record),
    }


def _session_results(sent: Sequence[Sent], record: Record) -> list[dict[str, object]]:
    from .data import by_session
    from .display import received_orders

    orders = received_orders(sent, record)
    results: list[dict[str, object]] = []
    for session_id, messages in by_session(sent).items():
        deliveries = [delivery for delivery in record.deliveries if delivery.session_id == session_id]
        outcomes = Counter(delivery.outcome for delivery in deliveries)
        results.append(
            {
                "session_id": session_id,
                "sent": len(messages),
                "order": orders[session_id],
                "deliveries": len(deliveries),
                "renewals": record.renewals.get(session_id, 0),
                "completed": outcomes["completed"],
                "abandoned": outcomes["abandoned"],
                "dead_lettered": outcomes["dead-lettered"],
            }
        )
    return results
