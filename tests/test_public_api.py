"""docs/api.md lists every name that `azsession` exports, and every public attribute of its classes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import azsession
from azsession import DeadLetter, DeadLetterSession, QueueError, ServiceBusProvider, SessionClient, SessionProcessor

from .support.paths import ROOT

REFERENCE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
#: The text below the heading of each class.
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", REFERENCE, re.MULTILINE | re.DOTALL))
EXPORTED = sorted(set(azsession.__all__) - {"__version__"})
_INHERITED = set(dir(object)) | set(dir(BaseException))


def documented(name: str) -> set[str]:
    """Return the names of the members that the reference lists for a class."""
    section = SECTIONS[name]
    members: set[str] = set()
    for base in re.findall(r"everything that `(\w+)` has", section):
        members |= documented(base)
    for cell in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE):
        members.update(re.findall(r"`(\w+)", cell))
    return members - {name}


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_") and name not in _INHERITED}


def test_the_reference_describes_what_is_exported() -> None:
    assert sorted(SECTIONS) == EXPORTED


@pytest.mark.parametrize("name", EXPORTED)
def test_the_reference_lists_the_attributes_of_a_class(name: str) -> None:
    cls = getattr(azsession, name)
    # An error has attributes that its class does not have.
    is_error = issubclass(cls, (QueueError, DeadLetter, DeadLetterSession))
    assert public(cls("x") if is_error else cls) == documented(name)


@pytest.fixture
def provider() -> Iterator[ServiceBusProvider]:
    with ServiceBusProvider.embedded() as provider:
        yield provider


def test_objects_have_no_public_attribute_beyond_the_reference(provider: ServiceBusProvider) -> None:
    assert public(provider) == documented("ServiceBusProvider")
    with provider.create_session_client("q", "s") as session:
        assert public(session) == documented("SessionClient")
    with SessionProcessor(provider, "q", lambda message, session: None) as processor:
        assert public(processor) == documented("SessionProcessor")


@pytest.mark.parametrize("cls", [ServiceBusProvider, SessionClient, SessionProcessor])
def test_public_members_have_docstrings(cls: type) -> None:
    undocumented = {name for name in public(cls) if not getattr(cls, name).__doc__}
    assert undocumented == set()
