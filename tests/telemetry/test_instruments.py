"""The instruments: their names and units, and that there is one of each in a process."""

from __future__ import annotations

from azsession.telemetry.instruments import has_meter_provider, has_tracer_provider, instruments

from .exported import Exported


def test_the_instruments_of_a_process_are_made_once() -> None:
    # The SDK warns about a second one with the same name, and every warning is an error in these tests.
    assert instruments() is instruments()


def test_the_providers_of_an_application_are_found(telemetry: Exported) -> None:
    assert has_tracer_provider()
    assert has_meter_provider()
