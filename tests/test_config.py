"""The configuration: namespaces, URLs, transports and environment variables."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azsession import ConfigurationError, ServiceBusConfig, ServiceBusProvider

KEYED = "SharedAccessKeyName=reader;SharedAccessKey=c2Vj+cmV0/w=="


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("https://gateway.example/", "https://gateway.example"),
        ("https://Gateway.Example:8443/base/", "https://gateway.example:8443/base"),
        ("sb://gateway.example/", "https://gateway.example"),
        ("sb://gateway.example:8443/", "https://gateway.example:8443"),
        ("SB://gateway.example/", "https://gateway.example"),
    ],
)
def test_the_endpoint_becomes_the_base_url_of_the_routes(endpoint: str, url: str) -> None:
    assert ServiceBusConfig(connection_string=f"Endpoint={endpoint};{KEYED}").namespace_url == url


@pytest.mark.parametrize(
    "host",
    [
        "myns.servicebus.windows.net",
        "MyNs.ServiceBus.Windows.Net",
        "a.servicebus.chinacloudapi.cn",
        "a.servicebus.usgovcloudapi.net",
        "a.servicebus.cloudapi.de",
    ],
)
def test_hosts_of_azure_are_reached_with_amqp_unless_configured_otherwise(host: str) -> None:
    text = f"Endpoint=sb://{host}/;{KEYED}"
    for config in (ServiceBusConfig(connection_string=text), ServiceBusConfig(namespace=host)):
        assert (config.uses_amqp, config.uses_websockets) == (True, False)
        assert (config.host, config.port, config.tls) == (host.lower(), 5671, True)
        assert config.namespace_url == f"https://{host.lower()}"
    for config in (
        ServiceBusConfig(connection_string=text, transport="http"),
        ServiceBusConfig(connection_string=text, gateway_url=f"https://{host}"),
        ServiceBusConfig(connection_string=f"Endpoint=https://{host}/;{KEYED}"),
    ):
        assert not config.uses_amqp
        assert (config.namespace_url, config.port) == (f"https://{host.lower()}", 443)


@pytest.mark.parametrize(("endpoint", "port"), [("sb://localhost", 5672), ("sb://127.0.0.1:5673/", 5673)])
def test_the_emulator_is_reached_with_amqp_without_tls(endpoint: str, port: int) -> None:
    config = ServiceBusConfig(connection_string=f"Endpoint={endpoint};{KEYED};UseDevelopmentEmulator=true")
    assert (config.uses_amqp, config.tls, config.port) == (True, False, port)
    assert config.namespace_url == endpoint.replace("sb:", "http:").rstrip("/")


def test_an_emulator_on_another_host_is_reached_without_tls() -> None:
    config = ServiceBusConfig(connection_string=f"Endpoint=sb://emulator;{KEYED};UseDevelopmentEmulator=true")
    assert (config.host, config.port, config.tls, config.uses_amqp) == ("emulator", 5672, False, True)


def test_use_development_emulator_is_ignored_for_hosts_of_azure() -> None:
    text = f"Endpoint=sb://myns.servicebus.windows.net/;{KEYED};UseDevelopmentEmulator=true"
    config = ServiceBusConfig(connection_string=text)
    assert (config.tls, config.port) == (True, 5671)


@pytest.mark.parametrize(
    ("fields", "port", "websockets"),
    [
        ({"transport": "amqp"}, 5671, False),
        ({"transport": "amqp-websockets"}, 443, True),
        ({"type": "Amqp"}, 5671, False),
        ({"type": "AmqpTcp"}, 5671, False),
        ({"type": "amqpwebsockets"}, 443, True),
        ({"type": "AmqpWebSockets", "transport": "amqp"}, 5671, False),
    ],
)
def test_amqp_can_be_configured_for_any_host(fields: dict[str, str], port: int, websockets: bool) -> None:
    kind = fields.pop("type", None)
    text = f"Endpoint=sb://bus.example/;{KEYED}" + (f";TransportType={kind}" if kind else "")
    config = ServiceBusConfig(connection_string=text, **fields)
    assert (config.uses_amqp, config.uses_websockets, config.port, config.tls) == (True, websockets, port, True)
    with_port = ServiceBusConfig(connection_string=text.replace("example", "example:9000"), **fields)
    assert (with_port.port, with_port.namespace_url) == (9000, "https://bus.example:9000")


def test_transport_type_is_ignored_for_a_gateway() -> None:
    text = f"Endpoint=sb://myns.servicebus.windows.net/;{KEYED};TransportType=AmqpWebSockets"
    assert not ServiceBusConfig(connection_string=text, gateway_url="https://gw").uses_amqp
    assert not ServiceBusConfig(connection_string=text, transport="http").uses_amqp
    assert not ServiceBusConfig(connection_string=f"Endpoint=https://gw/;{KEYED};TransportType=Amqp").uses_amqp
    with pytest.raises(ConfigurationError, match="TransportType must be Amqp or AmqpWebSockets"):
        ServiceBusConfig(connection_string=f"Endpoint=sb://gw/;{KEYED};TransportType=NetMessaging")


AZURE = f"Endpoint=sb://myns.servicebus.windows.net/;{KEYED}"
GATEWAY = f"Endpoint=http://127.0.0.1:8080/;{KEYED}"
EMULATOR = f"Endpoint=sb://127.0.0.1:5673/;{KEYED};UseDevelopmentEmulator=true"


@pytest.mark.parametrize(
    ("text", "fields", "url", "base", "amqp"),
    [
        (AZURE, {}, "https://myns.servicebus.windows.net/", "https://myns.servicebus.windows.net", True),
        (AZURE, {}, "sb://myns.servicebus.windows.net", "https://myns.servicebus.windows.net", True),
        (AZURE, {}, "https://other.servicebus.windows.net", "https://other.servicebus.windows.net", True),
        (AZURE, {}, "https://gw.example/base/", "https://gw.example/base", False),
        (AZURE, {"transport": "http"}, "https://a.servicebus.windows.net", "https://a.servicebus.windows.net", False),
        (GATEWAY, {}, "https://a.servicebus.windows.net", "https://a.servicebus.windows.net", True),
        (GATEWAY, {}, "http://127.0.0.1:9090", "http://127.0.0.1:9090", False),
        (
            GATEWAY,
            {"gateway_url": "https://gw"},
            "https://a.servicebus.windows.net",
            "https://a.servicebus.windows.net",
            False,
        ),
        (EMULATOR, {}, "http://127.0.0.1:5673/", "http://127.0.0.1:5673", True),
        (EMULATOR, {}, "sb://127.0.0.1:5673", "http://127.0.0.1:5673", True),
        (EMULATOR, {}, "http://127.0.0.1:8080", "http://127.0.0.1:8080", False),
    ],
)
def test_at_changes_the_endpoint_and_keeps_the_key(
    text: str, fields: dict[str, str], url: str, base: str, amqp: bool
) -> None:
    config = ServiceBusConfig(connection_string=text, **fields).at(url)
    assert (config.namespace_url, config.uses_amqp) == (base, amqp)
    assert config.credentials is not None
    assert config.credentials.key == "c2Vj+cmV0/w=="


@pytest.mark.parametrize("url", ["https://h/\ud800", "https://h..x/", f"https://{'a' * 64}.x/"])
def test_a_gateway_url_that_sockets_cannot_resolve_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="gateway_url"):
        ServiceBusConfig(gateway_url=url)


@given(st.text(st.sampled_from("=;:/abcEndpoint SharedAccessKeyName\u00e9[]@"), max_size=80))
def test_parsing_any_text_raises_nothing_but_configuration_error(text: str) -> None:
    for full in (text, f"Endpoint={text};{KEYED}"):
        with contextlib.suppress(ConfigurationError):
            ServiceBusConfig(connection_string=full)


def test_http_without_tls_is_refused_unless_it_is_loopback_or_allowed() -> None:
    text = f"Endpoint=http://gateway.example/;{KEYED}"
    with pytest.raises(ConfigurationError, match="in the clear"):
        ServiceBusConfig(connection_string=text)
    config = ServiceBusConfig(connection_string=text, allow_insecure_http=True)
    assert config.namespace_url == "http://gateway.example"
    with pytest.raises(ConfigurationError, match="in the clear"):
        ServiceBusConfig(gateway_url="http://gateway.example")


def test_a_namespace_can_be_given_with_a_gateway_url() -> None:
    config = ServiceBusConfig(namespace="myns", gateway_url="https://gw.example/")
    assert config.namespace_url == "https://gw.example"
    assert config.credentials is None


def test_a_short_namespace_gets_the_suffix_of_azure() -> None:
    assert ServiceBusConfig(namespace="myns", transport="http").namespace_url == "https://myns.servicebus.windows.net"
    assert ServiceBusConfig(namespace="gw.example:8443").namespace_url == "https://gw.example:8443"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"namespace": "a b"},
        {"namespace": "https://h"},
        {"namespace": ""},
        {"namespace": "myns", "connection_string": f"Endpoint=sb://h/;{KEYED}"},
        {"gateway_url": "sb://h"},
        {"gateway_url": "nonsense"},
        {"gateway_url": "https://h", "transport": "carrier-pigeon"},
        {"gateway_url": "https://h", "transport": "amqp"},
        {"connection_string": f"Endpoint=http://localhost/;{KEYED}", "transport": "amqp"},
        {"gateway_url": "https://h", "session_timeout": 0},
        {"gateway_url": "https://h", "session_timeout": "60"},
        {"gateway_url": "https://h", "request_timeout": -1},
        {"gateway_url": "https://h", "retry_attempts": -1},
        {"gateway_url": "https://h", "retry_attempts": 1.5},
        {"gateway_url": "https://h", "retry_deadline": float("nan")},
        {"gateway_url": "https://h", "pool_connections": 0},
        {"gateway_url": "https://h", "pool_connections": True},
    ],
)
def test_a_field_of_a_wrong_type_or_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ServiceBusConfig(**fields)


def test_durations_may_be_timedeltas() -> None:
    config = ServiceBusConfig(
        gateway_url="https://h", session_timeout=timedelta(minutes=2), retry_deadline=timedelta(seconds=1)
    )
    assert (config.session_timeout, config.retry_deadline) == (120.0, 1.0)


def test_the_defaults_are_as_documented() -> None:
    config = ServiceBusConfig(gateway_url="https://h")
    assert (config.session_timeout, config.request_timeout, config.retry_attempts) == (60, 30, 4)
    assert (config.retry_deadline, config.pool_connections, config.transport) == (30, 32, "auto")
    assert (config.ca_bundle, config.allow_insecure_http) == (None, False)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ServiceBusConfig(gateway_url="https://h").namespace = "x"  # type: ignore[misc]


def test_a_configuration_can_be_evolved_and_pickled() -> None:
    config = ServiceBusConfig(connection_string=f"Endpoint=https://h/;{KEYED}")
    assert attrs.evolve(config, gateway_url="https://g").namespace_url == "https://g"
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.namespace_url == config.namespace_url


def test_from_env_prefers_the_connection_string_and_reads_the_gateway_url() -> None:
    text = f"Endpoint=https://h/;{KEYED}"
    environ = {"SERVICEBUS_CONNECTION_STRING": text, "SERVICEBUS_FULLY_QUALIFIED_NAMESPACE": "other.example"}
    assert ServiceBusConfig.from_env(environ).connection_string == text
    del environ["SERVICEBUS_CONNECTION_STRING"]
    assert ServiceBusConfig.from_env(environ).namespace_url == "https://other.example"
    environ["AZSESSION_GATEWAY_URL"] = "https://gw.example"
    assert ServiceBusConfig.from_env(environ).namespace_url == "https://gw.example"


def test_fields_override_the_environment() -> None:
    environ = {"SERVICEBUS_CONNECTION_STRING": f"Endpoint=https://h/;{KEYED}", "AZSESSION_GATEWAY_URL": "https://gw.example"}
    config = ServiceBusConfig.from_env(environ, namespace="mine.example", gateway_url="https://mine", retry_attempts=0)
    assert (config.connection_string, config.namespace_url, config.retry_attempts) == (None, "https://mine", 0)


def test_the_error_for_an_empty_environment_names_the_variables() -> None:
    with pytest.raises(ConfigurationError, match="SERVICEBUS_CONNECTION_STRING"):
        ServiceBusConfig.from_env({"SERVICEBUS_CONNECTION_STRING": ""})


def test_no_repr_shows_a_key() -> None:
    config = ServiceBusConfig(connection_string=f"Endpoint=https://h/;{KEYED}")
    assert "c2V" not in repr(config) + repr(config.credentials) + str(config)


@pytest.mark.parametrize(
    ("make", "wrong", "right"),
    [
        (lambda **fields: ServiceBusConfig(namespace="ns", **fields), "sesion_timeout", "session_timeout"),
        (ServiceBusConfig.from_env, "conection_string", "connection_string"),
        (ServiceBusProvider.from_env, "gateway", "gateway_url"),
        (lambda **fields: ServiceBusProvider.from_connection_string(AZURE, **fields), "retry_atempts", "retry_attempts"),
        (lambda **fields: ServiceBusProvider.from_namespace("ns", **fields), "Transport", "transport"),
    ],
)
def test_a_misspelled_field_suggests_the_right_one(make: Callable[..., object], wrong: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no configuration field '{wrong}'; did you mean '{right}'"):
        make(**{wrong: 3})


def test_a_field_that_looks_like_no_other_lists_them_all() -> None:
    with pytest.raises(ConfigurationError, match=r"no configuration field 'zzz'; there are .*session_timeout") as caught:
        ServiceBusConfig(zzz=1)  # type: ignore[call-arg]
    for field in attrs.fields(ServiceBusConfig):
        assert (field.name in str(caught.value)) == field.init


@pytest.mark.parametrize(("namespace", "words"), [("a b", "not 'a b'"), (AZURE, "not text with '='")])
def test_the_error_for_a_wrong_namespace_shows_it_unless_it_may_contain_a_key(namespace: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        ServiceBusConfig(namespace=namespace)
    assert "c2V" not in str(caught.value)
