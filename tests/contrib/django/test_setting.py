"""The setting ``AZSESSION``."""

from __future__ import annotations

import sys

import attrs
import certifi
import pytest
from django.test import override_settings

from azsession import ServiceBusConfig
from azsession._extras import install_command
from azsession.contrib.django import get_provider
from azsession.contrib.django.setting import STYLE, read_setting
from azsession.contrib.provider_setting import ProblemCode, read

from ..places import AZURE, GATEWAY, SECRET

PLACES = f"{__package__.rpartition('.')[0]}.places"


@pytest.mark.parametrize(
    ("value", "module", "extra"),
    [(AZURE + ";TransportType=AmqpWebSockets", "websocket", "websockets")],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, value: object, module: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    with override_settings(AZSESSION=value):
        [problem] = read_setting().all_problems()
    assert problem.code is ProblemCode.MISSING_EXTRA
    assert install_command(extra) in problem.text


def test_without_a_place_in_the_setting_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICEBUS_CONNECTION_STRING", GATEWAY)
    monkeypatch.setenv("AZSESSION_GATEWAY_URL", "http://127.0.0.1:2")
    with override_settings(AZSESSION={"SESSION_TIMEOUT": 7}):
        assert not read_setting().all_problems()
        assert get_provider().config.session_timeout == 7
        assert get_provider().config.namespace_url == "http://127.0.0.1:2"
    # A place in the setting is not combined with one in the environment.
    with override_settings(AZSESSION=GATEWAY):
        assert get_provider().config.namespace_url == "http://127.0.0.1:1"


def test_every_field_of_the_configuration_can_be_set() -> None:
    values = {"connection_string": GATEWAY, "retry_attempts": 7, "ca_bundle": certifi.where()}
    fields = [each.name for each in attrs.fields(ServiceBusConfig) if each.init]
    setting = {name.upper(): values.get(name) for name in fields}
    with override_settings(AZSESSION=setting):
        config = get_provider().config
    assert {name: getattr(config, name) for name in values} == values


def test_the_repr_of_a_setting_shows_no_secret() -> None:
    assert SECRET not in repr(read(GATEWAY, STYLE))
