"""The settings in `app.config`: what is taken, what is refused and when, and what the environment adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from azsession import ConfigurationError, Message, ServiceBusConfig, ServiceBusProvider
from azsession.contrib.flask import AzSession
from azsession.testing import AzsessionServer

KEY = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
SHARED = f"Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=app;SharedAccessKey={KEY}"


class Credential:
    """A `TokenCredential` as far as it is looked at before a request."""

    def get_token(self, *scopes: str) -> Any:
        raise AssertionError("no request is made")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICEBUS_CONNECTION_STRING", "SERVICEBUS_FULLY_QUALIFIED_NAMESPACE", "AZSESSION_GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)


def app_with(**config: object) -> Flask:
    app = Flask(__name__)
    app.config.update(config)
    return app


def config_of(**config: object) -> ServiceBusConfig:
    """Return the configuration that settings come to."""
    azsession = AzSession(app_with(**config))
    try:
        return azsession.provider.config
    finally:
        azsession.close()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"AZSESSION_CONECTION_STRING": "x"}, "AZSESSION_CONECTION_STRING.*did you mean AZSESSION_CONNECTION_STRING"),
        ({"AZSESSION_RETRIES": 3}, "AZSESSION_RETRIES.*no setting.*AZSESSION_RETRY"),
        ({"AZSESSION_X": 3}, "AZSESSION_X.*there are AZSESSION_ALLOW_INSECURE_HTTP, .*AZSESSION_TRANSPORT"),
        ({"AZSESSION_RETRY_ATTEMPTS": -1}, "app.config: retry_attempts is a whole number"),
        ({"AZSESSION_RETRY_ATTEMPTS": "4"}, "app.config: retry_attempts is a whole number"),
        ({"AZSESSION_REQUEST_TIMEOUT": "soon"}, "app.config: request_timeout"),
        ({"AZSESSION_TRANSPORT": "smtp"}, "app.config: transport is one of"),
        ({"AZSESSION_TRANSPORT": 7}, "AZSESSION_TRANSPORT is a text, not a int"),
        ({"AZSESSION_ALLOW_INSECURE_HTTP": "false"}, "AZSESSION_ALLOW_INSECURE_HTTP is True or False, not a str"),
        ({"AZSESSION_CONNECTION_STRING": ""}, "app.config: the connection string is empty"),
        ({"AZSESSION_CONNECTION_STRING": SHARED, "AZSESSION_NAMESPACE": "shop"}, "not both"),
        ({"AZSESSION_GATEWAY_URL": "ftp://x"}, "app.config: gateway_url is not a URL"),
        ({"AZSESSION_GATEWAY_URL": 8720}, "AZSESSION_GATEWAY_URL is a text"),
        ({"AZSESSION_NAMESPACE": "shop", "AZSESSION_CREDENTIAL": "secret"}, "AZSESSION_CREDENTIAL is a TokenCredential"),
        ({"AZSESSION_EMBEDDED": True}, "AZSESSION_EMBEDDED is 'memory' or the path of a file, not a bool"),
    ],
)
def test_a_wrong_name_or_value_is_refused_when_the_app_is_set_up(config: dict[str, object], words: str) -> None:
    app = app_with(**config)
    with pytest.raises(ConfigurationError, match=words) as caught:
        AzSession().init_app(app)
    assert KEY not in str(caught.value)
    assert "azsession" not in app.extensions


def test_every_field_of_the_configuration_is_a_setting() -> None:
    given = {
        "CONNECTION_STRING": SHARED,
        "SESSION_TIMEOUT": 31,
        "REQUEST_TIMEOUT": 11,
        "RETRY_ATTEMPTS": 2,
        "RETRY_DEADLINE": 12,
        "POOL_CONNECTIONS": 5,
        "CA_BUNDLE": None,
        "ALLOW_INSECURE_HTTP": True,
        "TRANSPORT": "http",
    }
    config = config_of(**{f"AZSESSION_{name}": value for name, value in given.items()})
    assert {name: getattr(config, name.lower()) for name in given} == given
    fields = {field.name.upper() for field in ServiceBusConfig.__attrs_attrs__ if field.init}
    assert fields == {*given, "NAMESPACE", "GATEWAY_URL"}


def test_a_path_will_do_for_the_certificates(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    config = config_of(AZSESSION_CONNECTION_STRING=SHARED, AZSESSION_TRANSPORT="http", AZSESSION_CA_BUNDLE=bundle)
    assert config.ca_bundle == str(bundle)


def test_the_environment_says_where_to_connect_to_where_the_app_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", "Endpoint=http://127.0.0.1:1/;SharedAccessKeyName=a;SharedAccessKey=b")
    assert config_of(AZSESSION_RETRY_ATTEMPTS=1).namespace_url == "http://127.0.0.1:1"
    assert config_of(AZSESSION_RETRY_ATTEMPTS=1).retry_attempts == 1


def test_the_environment_is_not_mixed_with_what_the_app_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZSESSION_GATEWAY_URL", "http://127.0.0.1:1")
    said = "Endpoint=http://127.0.0.1:2/;SharedAccessKeyName=a;SharedAccessKey=b"
    assert config_of(AZSESSION_CONNECTION_STRING=said).namespace_url == "http://127.0.0.1:2"


def test_transport_alone_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_with(AZSESSION_TRANSPORT="amqp")
    azsession = AzSession(app)
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", SHARED)
    assert azsession.provider.config.uses_amqp
    azsession.close()


def test_that_nothing_says_where_to_connect_to_is_told_at_the_first_use_and_can_be_put_right() -> None:
    app = app_with()
    azsession = AzSession(app)
    with pytest.raises(ConfigurationError, match=r"app\.config has none of AZSESSION_CONNECTION_STRING, .*environment"):
        _ = azsession.provider
    app.config["AZSESSION_EMBEDDED"] = "memory"
    assert azsession.provider.send_message("orders", Message("paid", session_id="42"))
    azsession.close()


def test_settings_that_went_wrong_after_the_app_was_set_up_are_told_at_the_first_use() -> None:
    app = app_with(AZSESSION_EMBEDDED="memory")
    azsession = AzSession(app)
    app.config["AZSESSION_EMBEDED"] = "memory"
    with pytest.raises(ConfigurationError, match="did you mean AZSESSION_EMBEDDED"):
        _ = azsession.provider


def test_an_embedded_broker_goes_before_all_others_so_that_tests_need_one_line(azsession_server: AzsessionServer) -> None:
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
def test_a_credential_is_one_or_makes_one(credential: object) -> None:
    azsession = AzSession(app_with(AZSESSION_NAMESPACE="shop", AZSESSION_TRANSPORT="http", AZSESSION_CREDENTIAL=credential))
    assert azsession.provider.config.host == "shop.servicebus.windows.net"
    azsession.close()
