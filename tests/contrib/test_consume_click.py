"""The options of the consuming commands, for click."""

from __future__ import annotations

from argparse import ArgumentParser

import click
import pytest

from azsession.contrib.consume_click import processor_options
from azsession.contrib.consume_options import METRICS_OPTIONS, OPTIONS, add_arguments
from azsession.contrib.imports import import_object


@click.command()
@processor_options
def command(**values: object) -> None:
    """A command with all options."""


@pytest.fixture
def parser() -> ArgumentParser:
    made = ArgumentParser(add_help=False)
    add_arguments(made, function="DOTTED.PATH")
    return made


def test_click_and_argparse_have_the_same_options(parser: ArgumentParser) -> None:
    of_click = {each.name: sorted(each.opts) for each in command.params if isinstance(each, click.Option)}
    of_argparse = {each.dest: sorted(each.option_strings) for each in parser._actions}
    assert of_click == of_argparse == {option.name: sorted(option.flags) for option in OPTIONS + METRICS_OPTIONS}


def test_click_and_argparse_give_the_same_values(parser: ArgumentParser) -> None:
    line = [
        "--prefetch",
        "3",
        "--grace-period",
        "1.5",
        "--session-id",
        "a",
        "--session-ids",
        "b",
        "--until-empty",
        "--metrics-port",
        "9",
    ]
    parsed = vars(parser.parse_args(line))
    context = command.make_context("command", ["q", "json:loads", *line])
    by_click = {name: list(each) if isinstance(each, tuple) else each for name, each in context.params.items()}
    assert (by_click.pop("queue"), by_click.pop("handler")) == ("q", import_object("json.loads"))
    assert by_click == parsed
