"""Functions and credentials that are named by their path."""

from __future__ import annotations

import pytest

from azsession.contrib.imports import import_function, import_object


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
