"""The duration of a refusal reveals nothing: signatures are compared in constant time, and all refusals take the same steps.

These tests count the steps. `benchmarks/refusals.py` measures the time.
"""

from __future__ import annotations

import ast
import hmac
import inspect
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from azsession.errors import AuthenticationFailedError
from azsession.protocol import sas
from azsession.protocol.routes import Operation
from azsession.server import AccessKey, Right, authorization
from azsession.server.authorization import Guard

from .tokens import signed, wrong_forms, wrong_resources

KEY = AccessKey("root", "bWFuYWdl+/=", frozenset({Right.MANAGE}))
GUARD = Guard([KEY, AccessKey("other", "b3RoZXI=")])
GOOD = signed(quote("sb://here/q", safe=""), KEY, se="4102444800")


class Watched(bytes):
    """A digest that fails if anything but `hmac.compare_digest` compares it."""

    compared: list[str] = []  # noqa: RUF012 - emptied by the fixture

    def _compare(self, other: object) -> bool:
        self.compared.append("compared")
        return bytes.__eq__(self, other)  # type: ignore[return-value]

    __eq__ = _compare  # type: ignore[assignment]
    __hash__ = bytes.__hash__

    def __ne__(self, other: object) -> bool:
        return not self._compare(other)

    def startswith(self, *args: Any) -> bool:
        self.compared.append("startswith")
        return super().startswith(*args)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count the steps of the check of a token, without a change to it."""
    counted: Counter[str] = Counter()
    new, compare = hmac.new, hmac.compare_digest
    Watched.compared.clear()

    class Signing:
        def __init__(self, *args: Any) -> None:
            self._inner = new(*args)

        def digest(self) -> bytes:
            counted["signed"] += 1
            return Watched(self._inner.digest())

    def comparing(one: Any, two: Any) -> bool:
        counted["compared"] += 1
        counted[f"of {type(one).__name__} and {type(two).__name__}"] += 1
        return compare(bytes(one), two)

    monkeypatch.setattr(hmac, "new", Signing)
    monkeypatch.setattr(hmac, "compare_digest", comparing)
    yield counted
    assert Watched.compared == []


def refuse(token: str | None, resource: tuple[str, ...] | None = ("q", "sessions", "s")) -> None:
    with pytest.raises(AuthenticationFailedError):
        GUARD.check(token, "here", resource, Operation.RECEIVE)


USUAL = {"signed": 1, "compared": 1, "of Watched and bytes": 1}


def test_a_valid_token_is_signed_once_and_compared_once_in_constant_time(steps: Counter[str]) -> None:
    GUARD.check(GOOD, "here", ("q",), Operation.RECEIVE)
    assert steps == USUAL


def test_a_token_that_is_refused_takes_the_same_steps_although_it_was_accepted_before(steps: Counter[str]) -> None:
    token = signed(quote("sb://here/q/sessions/s", safe=""), KEY)
    GUARD.check(token, "here", ("q", "sessions", "s"), Operation.RECEIVE)
    steps.clear()
    GUARD.check(token, "here", ("q", "sessions", "s"), Operation.RECEIVE)
    assert steps == {}
    for host, resource in (("here", ("q", "sessions", "t")), ("there", ("q", "sessions", "s"))):
        steps.clear()
        with pytest.raises(AuthenticationFailedError):
            GUARD.check(token, host, resource, Operation.RECEIVE)
        assert steps == USUAL


def test_a_wrong_signature_and_an_unknown_key_take_the_same_steps_as_a_valid_token(steps: Counter[str]) -> None:
    keys = (AccessKey("root", "wrong"), AccessKey("nobody", KEY.key), AccessKey("", KEY.key))
    for token in [signed(quote("sb://here/q", safe=""), key) for key in keys]:
        steps.clear()
        refuse(token)
        assert steps == USUAL


def test_every_invalid_token_takes_the_same_steps(steps: Counter[str]) -> None:
    tokens = {**wrong_forms("here", "q", KEY), "none": "", "1 MB": GOOD + "x" * 1_000_000}
    tokens.update({name: signed(sr, KEY) for name, sr in wrong_resources("here", "q").items()})
    for name, token in tokens.items():
        steps.clear()
        refuse(token)
        assert steps == USUAL, name
    steps.clear()
    refuse(None)
    refuse(None, None)
    assert steps == {step: 2 * count for step, count in USUAL.items()}


def test_only_compare_digest_compares_signatures() -> None:
    modules = [ast.parse(inspect.getsource(module)) for module in (authorization, sas)]
    nodes = [node for module in modules for node in ast.walk(module)]
    secrets = {"signature", "expected", "secret", "key", "sig"}

    def names(node: ast.AST) -> set[str]:
        found = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        found |= {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}
        return found | {
            inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
        }

    compares = [node for node in nodes if isinstance(node, ast.Compare)]
    # It is not a secret that there is no key.
    by_identity = (ast.Is, ast.IsNot)
    assert [
        ast.unparse(node)
        for node in compares
        if names(node) & secrets and not all(isinstance(operator, by_identity) for operator in node.ops)
    ] == []
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    assert calls.count("hmac.compare_digest") == 1
