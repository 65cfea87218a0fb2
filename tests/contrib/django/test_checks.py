"""The system checks of the setting ``AZSESSION``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from azsession import ConfigurationError
from azsession.contrib.django import get_provider
from azsession.contrib.django.checks import check_setting

from ..places import AZURE, GATEWAY, SECRET, Credential

PLACES = f"{__package__.rpartition('.')[0]}.places"


def found(value: object) -> list[str]:
    with override_settings(AZSESSION=value):
        return [str(message.id) for message in check_setting()]


@pytest.mark.parametrize(
    "value",
    [
        GATEWAY,
        AZURE,
        {"CONNECTION_STRING": GATEWAY, "SESSION_TIMEOUT": 30, "RETRY_DEADLINE": None, "POOL_CONNECTIONS": 64},
        {"NAMESPACE": "myns", "CREDENTIAL": Credential()},
        {"NAMESPACE": "myns", "TRANSPORT": "amqp-websockets", "CREDENTIAL": f"{PLACES}.CREDENTIAL"},
        {
            "GATEWAY_URL": "https://gateway.example",
            "CA_BUNDLE": Path("/etc/ssl/ca.pem"),
            "CREDENTIAL": f"{PLACES}.Credential",
        },
        {"GATEWAY_URL": "http://gateway.example", "ALLOW_INSECURE_HTTP": True, "CREDENTIAL": f"{PLACES}.make_credential"},
        {"EMBEDDED": "memory"},
        {"EMBEDDED": Path("shop.db")},
    ],
)
def test_a_right_setting_passes(value: object) -> None:
    assert found(value) == []


@pytest.mark.parametrize(
    ("value", "codes", "words"),
    [
        (42, ["E001"], "must be a dict or a connection string, not int"),
        ({"CONECTION_STRING": GATEWAY, "EMBEDDED": "memory"}, ["E002"], "Did you mean 'CONNECTION_STRING'?"),
        ({"embedded": "memory"}, ["E002"], "Did you mean 'EMBEDDED'?"),
        ({"CONNECTION_STRING": GATEWAY, "zzz": 1}, ["E002"], "The keys are CONNECTION_STRING, NAMESPACE"),
        ({"CONNECTION_STRING": GATEWAY.encode()}, ["E003"], "must be a str, not bytes"),
        ({"TRANSPORT": "", "EMBEDDED": "memory"}, ["E003", "E005"], "is empty"),
        ("Endpoint", ["E003"], "has no '='"),
        ({"CONNECTION_STRING": GATEWAY, "RETRY_ATTEMPTS": "4", "REQUEST_TIMEOUT": "1"}, ["E003", "E003"], "retry_attempts"),
        ({"CONNECTION_STRING": GATEWAY, "TRANSPORT": "smtp"}, ["E003"], "transport "),
        ({"CONNECTION_STRING": GATEWAY, "ALLOW_INSECURE_HTTP": "no"}, ["E003"], "True or False, not str"),
        ({"CONNECTION_STRING": GATEWAY, "NAMESPACE": "myns"}, ["E003"], "AZSESSION: connection_string and namespace"),
        ("Endpoint=sb://gateway.example/", ["E003"], "give a credential"),
        ({"NAMESPACE": "myns", "CREDENTIAL": "no.such.thing"}, ["E004"], "cannot be imported"),
        ({"NAMESPACE": "myns", "CREDENTIAL": 7}, ["E004"], "no get_token"),
        ({"EMBEDDED": "memory", "NAMESPACE": "myns"}, ["E005"], "NAMESPACE would have no effect"),
    ],
)
def test_a_wrong_setting_is_an_error_of_the_checks_and_of_get_provider(value: object, codes: list[str], words: str) -> None:
    assert found(value) == [f"azsession.{code}" for code in codes]
    with override_settings(AZSESSION=value), pytest.raises(SystemCheckError) as caught:
        call_command("check")
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    with override_settings(AZSESSION=value), pytest.raises(ConfigurationError) as refused:
        get_provider()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "set SERVICEBUS_CONNECTION_STRING"),
        ({"SESSION_TIMEOUT": 30}, "does not say where"),
        ("", "AZSESSION['CONNECTION_STRING'] is empty"),
        ({"CONNECTION_STRING": ""}, "AZSESSION['CONNECTION_STRING'] is empty"),
        ({"NAMESPACE": "", "TRANSPORT": "amqp"}, "AZSESSION['NAMESPACE'] is empty"),
    ],
)
def test_a_missing_place_is_a_warning_of_the_checks_and_an_error_of_get_provider(value: object, words: str) -> None:
    assert found(value) == ["azsession.W001"]
    with override_settings(AZSESSION=value):
        call_command("check")
        with pytest.raises(SystemCheckError):
            call_command("check", fail_level="WARNING")
        with pytest.raises(ConfigurationError, match=re.escape(words)):
            get_provider()
