"""`manage.py azsession_consume`: runs a `SessionProcessor` with a function of the project."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from django.core.management.base import CommandError

from azsession.contrib.consume_options import DESCRIPTION, OPTIONS, QUEUE_HELP, Kind, add_arguments
from azsession.contrib.consume_run import USED_WRONGLY, ConsumeError, run_processor, summary
from azsession.contrib.django import closing_connections, get_provider
from azsession.contrib.imports import import_function
from azsession.processor import ProcessorStats, SessionProcessor

if TYPE_CHECKING:
    # Django has no type annotations, so that a type checker knows nothing about a class that inherits from Django's.
    class _BaseCommand:
        stdout: TextIO
        stderr: TextIO

else:
    from django.core.management.base import BaseCommand as _BaseCommand


class Command(_BaseCommand):
    """The command."""

    help: str = f"Calls a function with each message of a queue and its session. {DESCRIPTION}"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add a queue, a handler, and the options of all consuming commands."""
        parser.add_argument("queue", help=QUEUE_HELP)
        parser.add_argument("handler", help="The function's dotted path, for example orders.handlers.paid.")
        add_arguments(parser, function="DOTTED.PATH")

    def handle(self, *args: Any, **options: Any) -> None:
        """Consume until SIGTERM or Ctrl-C.

        Raises:
            CommandError: An argument is wrong (status 2). The command cannot go on, or handlers ran longer than the grace
                period (status 1).
        """
        queue: str = options["queue"]
        is_shown = options["verbosity"] > 0
        handler = _function("handler", options["handler"])
        arguments = {option.name: options[option.name] for option in OPTIONS}
        for option in OPTIONS:
            if option.kind is Kind.FUNCTION and arguments[option.name] is not None:
                arguments[option.name] = _function(option.name, arguments[option.name])

        def note(text: str) -> None:
            if is_shown:
                self.stderr.write(text)

        def show(stats: ProcessorStats) -> None:
            if is_shown:
                self.stdout.write(f"{queue}: {summary(stats)}")

        try:
            run_processor(
                queue,
                lambda: SessionProcessor(get_provider(), queue, handler, **arguments),
                note=note,
                show=show,
                metrics_host=options["metrics_host"],
                metrics_port=options["metrics_port"],
            )
        except ConsumeError as error:
            raise CommandError(str(error), returncode=error.status) from error


def _function(name: str, path: str) -> Callable[..., object]:
    try:
        return closing_connections(import_function(path))
    except ImportError as error:
        raise CommandError(f"{name} {error}", returncode=USED_WRONGLY) from error
