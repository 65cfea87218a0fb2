"""Connection strings, and the URLs in them."""

from __future__ import annotations

from typing import Any

import pytest

from azsession import ConfigurationError
from azsession.config import ConnectionString, is_loopback

KEYED = "SharedAccessKeyName=reader;SharedAccessKey=c2Vj+cmV0/w=="


def test_the_names_of_a_connection_string_are_read_in_any_case_and_order() -> None:
    text = " sharedaccesskey=a=b==;ENDPOINT=sb://h/;EntityPath=orders;SHAREDACCESSKEYNAME=n;Unknown=x; "
    found = ConnectionString.parse(text)
    assert (found.endpoint, found.key_name, found.key, found.entity_path) == ("sb://h/", "n", "a=b==", "orders")
    assert (found.signature, found.emulator) == (None, False)


def test_a_connection_string_can_have_a_signature_instead_of_a_key() -> None:
    found = ConnectionString.parse("Endpoint=sb://h/;SharedAccessSignature=SharedAccessSignature sr=x&sig=y%3D&se=1&skn=n")
    assert found.signature == "SharedAccessSignature sr=x&sig=y%3D&se=1&skn=n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "Endpoint",
        KEYED,
        f"Endpoint=;{KEYED}",
        f"Endpoint=ftp://h/;{KEYED}",
        f"Endpoint=sb://;{KEYED}",
        f"Endpoint=sb://h:99999/;{KEYED}",
        f"Endpoint=sb://h h/;{KEYED}",
        f"Endpoint=sb://user:pw@h/;{KEYED}",
        f"Endpoint=sb://h/?q=1;{KEYED}",
        f"Endpoint=sb://h/;Endpoint=sb://i/;{KEYED}",
        "Endpoint=sb://h/;SharedAccessKeyName=n",
        "Endpoint=sb://h/;SharedAccessKey=c2VjcmV0",
        "Endpoint=sb://h/;SharedAccessKeyName=n;SharedAccessKey=",
        f"Endpoint=sb://h/;{KEYED};SharedAccessSignature=s",
        f"Endpoint=sb://h/;{KEYED};EntityPath=a b",
        f"Endpoint=sb://h/;{KEYED};nonsense",
        f"Endpoint=sb://h/;{KEYED}\udcff",
        f"Endpoint=sb://h..x/;{KEYED}",
        f"Endpoint=sb://{'a' * 64}.x/;{KEYED}",
        f"Endpoint=sb://{'a.' * 128}x/;{KEYED}",
        "Endpoint=sb://h/;SharedAccessSignature=SharedAccessSignature sr=c2V\r\nX-Evil: 1",
        "Endpoint=sb://h/;SharedAccessSignature=SharedAccessSignature sr=c2V\u00e9",
        None,
        5,
        b"Endpoint=sb://h/",
    ],
)
def test_the_error_for_a_wrong_connection_string_does_not_show_the_key(text: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ConnectionString.parse(text)
    assert "c2V" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST", "a.localhost"])
def test_loopback_is_recognized_by_name_and_address(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "example.com", "localhost.example.com", "0.0.0.0", "::", "127.0.0.1.example"])
def test_other_hosts_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Endpoint=sb://h/;c2VjcmV0", "part 2 of 2 has no '='"),
        (f"Endpoint=sb://h/;{KEYED};TransportType=NetMessaging", "AmqpWebSockets, not 'NetMessaging'"),
        ("Endpoint=sb://h/;TransportType=AmqpSharedAccessKey=c2VjcmV0", "not a text of 28 characters"),
        ("Endpoint=c2VjcmV0", "it does not begin with sb:// or http:// or https://"),
        ("Endpoint=ftp://c2VjcmV0@h/", "its scheme is 'ftp'"),
        ("Endpoint=sb://user:c2VjcmV0@h\\/", r"it contains '\\'"),
        ("Endpoint=sb://user:c2VjcmV0@/", "it has no host"),
        ("Endpoint=sb://user:c2VjcmV0@h:99999/", "its host or its port is malformed"),
    ],
)
def test_the_error_for_a_wrong_connection_string_names_the_wrong_part_and_no_secret(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ConnectionString.parse(text)
    assert words in str(caught.value)
    assert "c2V" not in str(caught.value)
