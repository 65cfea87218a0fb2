"""How telemetry is turned off, and a process without OpenTelemetry."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from azsession import ConfigurationError, Message, ServiceBusConfig, ServiceBusProvider
from azsession.telemetry import Telemetry, create
from azsession.testing import AzsessionServer

from ..api.conftest import take
from ..support.processes import environment, run_python
from .exported import Exported


def use(provider: ServiceBusProvider) -> dict[str, Any]:
    """Send, receive and complete a message. Return its attributes."""
    provider.send_message("orders", Message("x", session_id="s1"))
    with provider.create_session_client("orders", "s1") as session:
        message = take(session)
        session.complete_message(message)
    return message.attributes


def test_telemetry_is_on_by_default(azsession_provider: ServiceBusProvider, telemetry: Exported) -> None:
    assert set(use(azsession_provider)) == {"traceparent", "Diagnostic-Id"}
    assert len(telemetry.spans()) > 3


def test_the_configuration_turns_spans_and_measurements_off(azsession_server: AzsessionServer, telemetry: Exported) -> None:
    line = azsession_server.connection_string
    with ServiceBusProvider.from_connection_string(line, telemetry=False) as provider:
        assert use(provider) == {}
    assert [span.name for span in telemetry.spans() if "/" not in span.name] == []
    assert telemetry.measured("messaging.client.operation.duration") == 0


def test_the_variable_of_azures_sdks_turns_spans_off_and_keeps_measurements(
    azsession_server: AzsessionServer, telemetry: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_TRACING_ENABLED", "False")
    with azsession_server.provider() as provider:
        assert use(provider) == {}
    assert [span.name for span in telemetry.spans() if "/" not in span.name] == []
    assert telemetry.measured("messaging.client.operation.duration", messaging_operation_name="send") == 1


@pytest.mark.parametrize("value", ["0", "off", "NO", "false"])
def test_the_values_that_turn_spans_off(value: str, telemetry: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_TRACING_ENABLED", value)
    with create("host", 1).send("send", "orders", [], is_batch=True):
        pass
    assert telemetry.spans() == []


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="telemetry"):
        ServiceBusConfig(gateway_url="https://example.com", telemetry="no")  # type: ignore[arg-type]


def test_create_returns_one_that_does_nothing_if_it_is_off() -> None:
    assert type(create(None, None, enabled=False)) is Telemetry


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

if {missing}:
    sys.meta_path.insert(0, Missing())
from azsession import Message, ServiceBusProvider
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
with ServiceBusProvider.embedded() as provider:
    provider.send_message("orders", Message("x", session_id="s1"))
    with provider.create_session_client("orders") as session:
        message = session.receive_message()
        session.complete_message(message)
        assert message.attributes == {{}}
print("opentelemetry.sdk" in sys.modules, "opentelemetry.trace" in sys.modules)
"""


@pytest.mark.parametrize("missing", [True, False])
def test_without_the_api_or_without_a_provider_nothing_happens(missing: bool) -> None:
    ended = run_python("-c", WITHOUT.format(missing=missing), environ=environment())
    assert ended.stdout.split() == ["False", str(not missing)]


class _Broken:
    """A tracer whose spans fail."""

    def start_span(self, *args: object, **kwargs: object) -> object:
        raise RuntimeError("on purpose")


def test_an_error_of_the_sdk_does_not_reach_the_caller(
    azsession_server: AzsessionServer,
    telemetry: Exported,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "azsession.telemetry")
    with azsession_server.provider() as provider:
        instruments: Any = provider._core.telemetry._instruments
        monkeypatch.setattr(instruments, "tracer", _Broken())
        assert use(provider) == {}
    assert "RuntimeError: on purpose" in caplog.text
