"""The API reference has every name that `azsession` exports, and the docstrings describe every public attribute.

The reference is made from the docstrings: docs/api.md, docs/api-messages.md and docs/api-errors.md name the classes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module

import pytest

import azsession
from azsession import QueueError, ServiceBusProvider, SessionClient, SessionProcessor

from .support.paths import ROOT

PAGES = [ROOT / "docs" / name for name in ("api.md", "api-messages.md", "api-errors.md")]
EXPORTED = sorted(set(azsession.__all__) - {"__version__"})
_INHERITED = set(dir(object)) | set(dir(BaseException))


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_") and name not in _INHERITED}


def described(cls: type) -> set[str]:
    """Return the names in the sections "Args" and "Attributes" of a class's docstring and those of its bases.

    A docstring can refer to another class for its other attributes: "those of `Message`".
    """
    found: set[str] = set()
    for each in cls.__mro__:
        text = inspect.cleandoc(each.__doc__ or "")
        for section in re.findall(r"^(?:Args|Attributes):\n(.*?)(?=^\w|\Z)", text, re.MULTILINE | re.DOTALL):
            found |= set(re.findall(r"^    (\w+):", section, re.MULTILINE))
        for other in re.findall(r"(?:those of|and) `(\w+)`", text):
            if other in EXPORTED and other != cls.__name__:
                found |= described(getattr(azsession, other))
    return found


def undescribed(cls: type) -> set[str]:
    """Return the public attributes that no docstring describes."""
    own_text = {name for name in public(cls) if callable(getattr(cls, name)) or isinstance(getattr(cls, name), property)}
    without = {name for name in own_text if not getattr(cls, name).__doc__}
    return without | (public(cls) - own_text - described(cls))


def test_the_reference_has_each_exported_name_once() -> None:
    names = [name for page in PAGES for name in re.findall(r"^::: azsession\.(\w+)$", page.read_text("utf-8"), re.MULTILINE)]
    assert sorted(names) == EXPORTED


@pytest.mark.parametrize("module", ["server", "contrib.celery", "contrib.django", "contrib.flask"])
def test_the_reference_has_what_the_modules_with_extras_export(module: str) -> None:
    text = (ROOT / "docs" / "api-integrations.md").read_text(encoding="utf-8")
    exported = import_module(f"azsession.{module}").__all__
    assert [name for name in exported if f"azsession.{module}.{name}" not in text and not name.isupper()] == []


@pytest.mark.parametrize("name", EXPORTED)
def test_the_docstrings_describe_each_public_attribute(name: str) -> None:
    cls = getattr(azsession, name)
    assert undescribed(cls) == set()
    if issubclass(cls, QueueError):  # An error has attributes that its class does not have.
        assert public(cls("x")) - public(cls) - described(cls) == set()


def test_the_check_finds_an_attribute_without_description() -> None:
    class Thing:
        """A thing.

        Attributes:
            size: Its size.
        """

        size = 1
        weight = 2

        def grow(self) -> None: ...

    assert undescribed(Thing) == {"weight", "grow"}


@pytest.fixture
def provider() -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.embedded() as provider:
        yield provider


def test_objects_have_no_public_attribute_that_their_class_lacks(provider: ServiceBusProvider) -> None:
    assert public(provider) == public(ServiceBusProvider)
    with provider.create_session_client("q", "s") as session:
        assert public(session) == public(SessionClient)
    with SessionProcessor(provider, "q", lambda message, session: None) as processor:
        assert public(processor) == public(SessionProcessor)
