"""The options of the three commands that consume a queue."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser

import click
import pytest

from azsession import SessionProcessor
from azsession.contrib.consume_click import processor_options
from azsession.contrib.consume_options import OPTIONS, add_arguments
from azsession.contrib.imports import import_function, import_object


@click.command()
@processor_options
def command(**values: object) -> None:
    """A command with all options."""


@pytest.fixture
def parser() -> ArgumentParser:
    made = ArgumentParser(add_help=False)
    add_arguments(made, function="DOTTED.PATH")
    return made


def test_the_options_are_the_arguments_of_a_processor_with_its_defaults() -> None:
    parameters = inspect.signature(SessionProcessor).parameters.values()
    arguments = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert {option.name: option.default for option in OPTIONS} == arguments


def test_click_and_argparse_have_the_same_options(parser: ArgumentParser) -> None:
    of_click = {each.name: sorted(each.opts) for each in command.params if isinstance(each, click.Option)}
    of_argparse = {each.dest: sorted(each.option_strings) for each in parser._actions}
    assert of_click == of_argparse == {option.name: sorted(option.flags) for option in OPTIONS}


def test_click_and_argparse_give_the_same_values(parser: ArgumentParser) -> None:
    line = ["--prefetch", "3", "--grace-period", "1.5", "--session-id", "a", "--session-ids", "b"]
    parsed = vars(parser.parse_args(line))
    context = command.make_context("command", ["q", "json:loads", *line])
    by_click = {name: list(each) if isinstance(each, tuple) else each for name, each in context.params.items()}
    assert (by_click.pop("queue"), by_click.pop("handler")) == ("q", import_object("json.loads"))
    assert by_click == parsed


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("json", "not of the form module:name or module.name"),
        ("json:", "not of the form"),
        ("no_such_module:handle", "ModuleNotFoundError"),
        ("json.missing", "AttributeError"),
        ("json:__name__", "must be a function, but it is of type str"),
    ],
)
def test_the_error_says_why_a_function_cannot_be_imported(path: str, words: str) -> None:
    with pytest.raises(ImportError, match=words):
        import_function(path)


def test_a_function_can_be_an_attribute_of_a_class() -> None:
    assert import_function("json:JSONEncoder.encode") is import_object("json.encoder:JSONEncoder.encode")
