"""The setting in the app's configuration, and the provider that comes of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals

from azsession import ConfigurationError, Message
from azsession.contrib.celery import close_provider, current_provider
from azsession.testing import AzsessionServer

KEY = "Endpoint=http://127.0.0.1:9/;SharedAccessKeyName=name;SharedAccessKey=c2VjcmV0"


def test_a_process_has_one_provider_for_an_app(app: Celery) -> None:
    provider = current_provider(app)
    assert current_provider(app) is provider
    close_provider(app)
    assert current_provider(app) is not provider


def test_a_task_has_its_apps_provider(app: Celery) -> None:
    def work() -> bool:
        return current_provider() is current_provider(app)

    assert app.task(name="work", shared=False)(work).apply().get() is True


@pytest.mark.parametrize("value", [KEY, {"connection_string": KEY}, {"CONNECTION_STRING": KEY, "SESSION_TIMEOUT": 5}])
def test_the_setting_is_a_dict_or_a_connection_string(app: Celery, value: Any) -> None:
    app.conf.azsession = value
    assert "127.0.0.1:9" in repr(current_provider(app))


def test_it_comes_from_a_namespace_of_settings_too() -> None:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(type("settings", (), {"CELERY_AZSESSION": KEY}), namespace="CELERY")
    assert "127.0.0.1:9" in repr(current_provider(app))
    close_provider(app)
    app.close()


def test_without_it_the_environment_says_where_to(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    app.conf.azsession = None
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", KEY)
    assert "127.0.0.1:9" in repr(current_provider(app))


def test_where_nothing_says_where_to_the_error_names_what_is_missing(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    app.conf.azsession = {"session_timeout": 5}
    for name in ("SERVICEBUS_CONNECTION_STRING", "SERVICEBUS_FULLY_QUALIFIED_NAMESPACE", "AZSESSION_GATEWAY_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match=r"connection_string.*SERVICEBUS_CONNECTION_STRING"):
        current_provider(app)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (5, "a dict or a connection string"),
        ({"conection_string": KEY}, "did you mean 'connection_string'"),
        ({"connection_string": b"x"}, "no text, but a bytes"),
        ({"connection_string": KEY, "retry_attempts": -1}, "retry_attempts"),
        ({"connection_string": KEY, "allow_insecure_http": "no"}, "neither True nor False"),
        ({"connection_string": KEY, "embedded": "memory"}, "would do nothing"),
        ({"namespace": "x", "credential": "no.such.module"}, "cannot be imported"),
        ({"namespace": "x", "credential": 5}, "neither a TokenCredential"),
        ({"embedded": 5}, "no path"),
    ],
)
def test_what_is_wrong_is_told(app: Celery, value: Any, told: str) -> None:
    app.conf.azsession = value
    with pytest.raises(ConfigurationError, match=told) as caught:
        current_provider(app)
    assert "c2VjcmV0" not in str(caught.value)


def test_a_worker_that_starts_tells_what_is_wrong(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    app.conf.azsession = {"conection_string": KEY}
    signals.worker_init.send(sender=type("Worker", (), {"app": app}))
    assert "did you mean 'connection_string'" in caplog.text


def test_threads_that_ask_at_once_get_the_same_provider(app: Celery) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: current_provider(app), range(8)))) == 1


def test_a_broker_can_be_embedded_for_tests(app: Celery, tmp_path: Path) -> None:
    for where in ("memory", tmp_path / "broker.db"):
        app.conf.azsession = {"embedded": where}
        provider = current_provider(app)
        provider.send_message("orders", Message("1", session_id="a"))
        assert len(provider.list_sessions("orders")) == 1
        close_provider(app)


def test_a_credential_is_one_or_what_makes_one(app: Celery, azsession_server: AzsessionServer) -> None:
    app.conf.azsession = {"namespace": "x", "credential": "azure.identity.DefaultAzureCredential"}
    assert "x.servicebus.windows.net" in repr(current_provider(app))
