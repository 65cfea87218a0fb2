"""The options of the three commands that consume a queue."""

from __future__ import annotations

import inspect

from azsession import SessionProcessor
from azsession.contrib.consume_options import OPTIONS


def test_the_options_are_the_arguments_of_a_processor_with_its_defaults() -> None:
    parameters = inspect.signature(SessionProcessor).parameters.values()
    arguments = {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert {option.name: option.default for option in OPTIONS} == arguments
