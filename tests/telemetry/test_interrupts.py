"""Calls that are interrupted while spans are made: no message and no lock is lost, as in `tests/interrupts`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import context

from azsession import ServiceBusProvider

from ..api.conftest import AzureInProcess, EmbeddedOverHTTP
from ..interrupts.sweep import BytecodeInterrupter, Context, Interrupter, steps
from ..interrupts.test_sweep import Scenario, complete, dead_letter, iterate, receive_many, receive_one, send
from .exported import Exported


@pytest.fixture(autouse=True)
def _current_span() -> Iterator[None]:
    """Restore the current span. An interrupt at the end of an operation can leave it set."""
    token = context.attach(context.Context())
    yield
    context.detach(token)


@pytest.mark.parametrize("arrangement", [EmbeddedOverHTTP, AzureInProcess], indirect=True, ids=lambda kind: kind.name)
@pytest.mark.parametrize("kind", [Interrupter, BytecodeInterrupter], ids=["line", "bytecode"])
@pytest.mark.parametrize(
    "scenario", [receive_one, receive_many, iterate, complete, dead_letter, send], ids=lambda scenario: scenario.__name__
)
def test_a_traced_call_can_be_interrupted_anywhere(
    provider: ServiceBusProvider, queue: str, scenario: Scenario, kind: type[Interrupter], telemetry: Exported
) -> None:
    scenario(Context(provider, queue, 0))
    whole = Context(provider, queue, 0, kind)
    scenario(whole)
    for at in steps(whole.interrupter.lines):
        context.attach(context.Context())
        scenario(Context(provider, queue, at, kind))
    assert telemetry.spans()
