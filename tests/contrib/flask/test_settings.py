"""The settings in `app.config`, and those that the environment adds."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest
from flask import Flask

from azsession import ConfigurationError, Message, ServiceBusConfig, ServiceBusProvider
from azsession.contrib.flask import AzSession
from azsession.testing import AzsessionServer

from ..places import AZURE, GATEWAY, SECRET, Credential


def app_with(**config: object) -> Flask:
    app = Flask(__name__)
    app.config.update(config)
    return app


def config_of(**config: object) -> ServiceBusConfig:
    """Return the configuration that results from the settings."""
    azsession = AzSession(app_with(**config))
    try:
        return azsession.provider.config
    finally:
        azsession.close()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"AZSESSION_CONECTION_STRING": "x"}, "AZSESSION_CONECTION_STRING.*Did you mean 'AZSESSION_CONNECTION_STRING'"),
        ({"AZSESSION_RETRIES": 3}, "AZSESSION_RETRIES.*is not a setting.*AZSESSION_RETRY"),
        ({"AZSESSION_X": 3}, "AZSESSION_X.*The keys are AZSESSION_CONNECTION_STRING, .*AZSESSION_TRANSPORT"),
        ({"AZSESSION_RETRY_ATTEMPTS": -1}, "AZSESSION_RETRY_ATTEMPTS'.: retry_attempts"),
        ({"AZSESSION_RETRY_ATTEMPTS": "4"}, "AZSESSION_RETRY_ATTEMPTS'.: retry_attempts"),
        ({"AZSESSION_REQUEST_TIMEOUT": "soon"}, "AZSESSION_REQUEST_TIMEOUT'.: request_timeout"),
        ({"AZSESSION_TRANSPORT": "smtp"}, "app.config: transport .*'smtp'"),
        ({"AZSESSION_TRANSPORT": 7}, "AZSESSION_TRANSPORT'. must be a str, not int"),
        ({"AZSESSION_ALLOW_INSECURE_HTTP": "false"}, "AZSESSION_ALLOW_INSECURE_HTTP'. must be True or False, not str"),
        (
            {"AZSESSION_CONNECTION_STRING": AZURE, "AZSESSION_NAMESPACE": "shop"},
            "app.config: .*connection_string .*namespace",
        ),
        ({"AZSESSION_GATEWAY_URL": "ftp://x"}, "app.config: gateway_url is not a URL"),
        ({"AZSESSION_GATEWAY_URL": 8720}, "AZSESSION_GATEWAY_URL'. must be a str, not int"),
        (
            {"AZSESSION_NAMESPACE": "shop", "AZSESSION_CREDENTIAL": "secret"},
            "AZSESSION_CREDENTIAL'. must be a TokenCredential",
        ),
        ({"AZSESSION_EMBEDDED": True}, "AZSESSION_EMBEDDED'. must be 'memory' or the path of a file, not bool"),
    ],
)
def test_a_wrong_name_or_value_is_refused_when_the_app_is_set_up(config: dict[str, object], words: str) -> None:
    app = app_with(**config)
    with pytest.raises(ConfigurationError, match=words) as caught:
        AzSession().init_app(app)
    assert SECRET not in str(caught.value)
    assert "azsession" not in app.extensions


@pytest.mark.parametrize("name", ["AZSESSION_CONNECTION_STRING", "AZSESSION_NAMESPACE", "AZSESSION_GATEWAY_URL"])
def test_an_empty_place_is_an_error_of_the_provider_and_not_of_the_app(name: str) -> None:
    app = app_with(**{name: ""})
    azsession = AzSession(app)
    with app.app_context(), pytest.raises(ConfigurationError, match=f"{name}'. is empty"):
        azsession.provider.close()


def test_every_field_of_the_configuration_is_a_setting() -> None:
    given = {
        "CONNECTION_STRING": AZURE,
        "SESSION_TIMEOUT": 31,
        "REQUEST_TIMEOUT": 11,
        "RETRY_ATTEMPTS": 2,
        "RETRY_DEADLINE": 12,
        "POOL_CONNECTIONS": 5,
        "CA_BUNDLE": None,
        "ALLOW_INSECURE_HTTP": True,
        "TRANSPORT": "http",
        "TELEMETRY": False,
    }
    config = config_of(**{f"AZSESSION_{name}": value for name, value in given.items()})
    assert {name: getattr(config, name.lower()) for name in given} == given
    fields = {field.name.upper() for field in ServiceBusConfig.__attrs_attrs__ if field.init}
    assert fields == {*given, "NAMESPACE", "GATEWAY_URL"}


def test_the_certificates_can_be_given_as_a_path(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes())
    config = config_of(AZSESSION_CONNECTION_STRING=AZURE, AZSESSION_TRANSPORT="http", AZSESSION_CA_BUNDLE=bundle)
    assert config.ca_bundle == str(bundle)


def test_without_a_place_in_the_settings_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", GATEWAY)
    assert config_of(AZSESSION_RETRY_ATTEMPTS=1).namespace_url == "http://127.0.0.1:1"
    assert config_of(AZSESSION_RETRY_ATTEMPTS=1).retry_attempts == 1


def test_a_place_in_the_settings_is_not_mixed_with_one_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZSESSION_GATEWAY_URL", "http://127.0.0.1:2")
    assert config_of(AZSESSION_CONNECTION_STRING=GATEWAY).namespace_url == "http://127.0.0.1:1"


def test_the_transport_can_be_set_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_with(AZSESSION_TRANSPORT="amqp")
    azsession = AzSession(app)
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", AZURE)
    assert azsession.provider.config.uses_amqp
    azsession.close()


def test_a_missing_place_is_an_error_at_the_first_use_and_can_be_corrected() -> None:
    app = app_with()
    azsession = AzSession(app)
    with pytest.raises(
        ConfigurationError, match=r"app\.config does not say where.*AZSESSION_CONNECTION_STRING, .*environment"
    ):
        _ = azsession.provider
    app.config["AZSESSION_EMBEDDED"] = "memory"
    assert azsession.provider.send_message("orders", Message("paid", session_id="42"))
    azsession.close()


def test_a_wrong_setting_that_was_added_after_init_app_is_an_error_at_the_first_use() -> None:
    app = app_with(AZSESSION_EMBEDDED="memory")
    azsession = AzSession(app)
    app.config["AZSESSION_EMBEDED"] = "memory"
    with pytest.raises(ConfigurationError, match="Did you mean 'AZSESSION_EMBEDDED'"):
        _ = azsession.provider


def test_an_embedded_broker_wins_over_a_connection_string(azsession_server: AzsessionServer) -> None:
    app = app_with(AZSESSION_CONNECTION_STRING=azsession_server.connection_string)
    azsession = AzSession(app)
    app.config.update(AZSESSION_EMBEDDED="memory")
    azsession.provider.send_message("orders", Message("paid", session_id="42"))
    azsession.close()
    with azsession_server.provider() as provider:
        assert provider.list_queues() == []


def test_an_embedded_broker_can_keep_its_messages_in_a_file(tmp_path: Path) -> None:
    azsession = AzSession(app_with(AZSESSION_EMBEDDED=tmp_path / "orders.db"))
    azsession.provider.send_message("orders", Message("paid", session_id="42"))
    azsession.close()
    with ServiceBusProvider.embedded(tmp_path / "orders.db") as provider:
        assert [message.text() for message in provider.peek_messages("orders", "42")] == ["paid"]


@pytest.mark.parametrize("credential", [Credential(), Credential, lambda: Credential()])
def test_the_credential_can_be_an_object_a_class_or_a_function(credential: object) -> None:
    azsession = AzSession(app_with(AZSESSION_NAMESPACE="myns", AZSESSION_TRANSPORT="http", AZSESSION_CREDENTIAL=credential))
    assert azsession.provider.config.host == "myns.servicebus.windows.net"
    azsession.close()
