"""``app.conf.azsession``, and the provider made from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals

from azsession import ConfigurationError, Message
from azsession.contrib.celery import close_provider, current_provider
from azsession.testing import AzsessionServer

from ..places import GATEWAY, SECRET


def test_a_process_has_one_provider_for_each_app(app: Celery) -> None:
    provider = current_provider(app)
    assert current_provider(app) is provider
    close_provider(app)
    assert current_provider(app) is not provider


def test_a_task_uses_the_provider_of_its_app(app: Celery) -> None:
    def work() -> bool:
        return current_provider() is current_provider(app)

    assert app.task(name="work", shared=False)(work).apply().get() is True


@pytest.mark.parametrize(
    "value", [GATEWAY, {"connection_string": GATEWAY}, {"CONNECTION_STRING": GATEWAY, "SESSION_TIMEOUT": 5}]
)
def test_the_setting_is_a_dict_or_a_connection_string(app: Celery, value: Any) -> None:
    app.conf.azsession = value
    assert "127.0.0.1:1" in repr(current_provider(app))


def test_the_setting_can_come_from_a_namespace_of_settings() -> None:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(type("settings", (), {"CELERY_AZSESSION": GATEWAY}), namespace="CELERY")
    assert "127.0.0.1:1" in repr(current_provider(app))
    close_provider(app)
    app.close()


def test_without_the_setting_the_environment_says_where_the_messages_are(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.conf.azsession = None
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", GATEWAY)
    assert "127.0.0.1:1" in repr(current_provider(app))


def test_the_error_says_what_to_set_if_nothing_says_where_the_messages_are(app: Celery) -> None:
    app.conf.azsession = {"session_timeout": 5}
    with pytest.raises(ConfigurationError, match=r"connection_string.*SERVICEBUS_CONNECTION_STRING"):
        current_provider(app)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "a dict or a connection string"),
        ({"conection_string": GATEWAY}, "Did you mean 'connection_string'"),
        ({"connection_string": b"x"}, "must be a str, not bytes"),
        ({"connection_string": GATEWAY, "retry_attempts": -1}, "retry_attempts"),
        ({"connection_string": GATEWAY, "allow_insecure_http": "no"}, "must be True or False, not str"),
        ({"connection_string": GATEWAY, "embedded": "memory"}, "would have no effect"),
        ({"namespace": "x", "credential": "no.such.module"}, "cannot be imported"),
        ({"namespace": "x", "credential": 5}, "must be a TokenCredential"),
        ({"embedded": 5}, "must be 'memory' or the path of a file, not int"),
    ],
)
def test_the_error_names_the_wrong_key_or_value(app: Celery, value: Any, words: str) -> None:
    app.conf.azsession = value
    with pytest.raises(ConfigurationError, match=words) as caught:
        current_provider(app)
    assert SECRET not in str(caught.value)


def test_a_worker_logs_a_wrong_setting_when_it_starts(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    app.conf.azsession = {"conection_string": GATEWAY}
    signals.worker_init.send(sender=type("Worker", (), {"app": app}))
    assert "Did you mean 'connection_string'" in caplog.text


def test_threads_that_ask_at_the_same_time_get_the_same_provider(app: Celery) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: current_provider(app), range(8)))) == 1


def test_the_broker_can_be_embedded(app: Celery, tmp_path: Path) -> None:
    for where in ("memory", tmp_path / "broker.db"):
        app.conf.azsession = {"embedded": where}
        provider = current_provider(app)
        provider.send_message("orders", Message("1", session_id="a"))
        assert len(provider.list_sessions("orders")) == 1
        close_provider(app)


def test_a_credential_can_be_named_by_its_dotted_path(app: Celery, azsession_server: AzsessionServer) -> None:
    app.conf.azsession = {"namespace": "x", "credential": "azure.identity.DefaultAzureCredential"}
    assert "x.servicebus.windows.net" in repr(current_provider(app))
