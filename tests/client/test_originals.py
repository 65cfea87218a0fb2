"""Which methods are a library's own."""

from __future__ import annotations

import functools
import http.client
from typing import Any
from unittest import mock

import pytest
import requests
from urllib3.connection import HTTPConnection

from azsession.client.originals import Methods


def test_the_methods_of_the_libraries_are_their_own() -> None:
    assert Methods(
        (http.client.HTTPConnection, "putheader"), (HTTPConnection, "getresponse"), (requests.Session, "send")
    ).are_original()


def _other(*args: Any, **settings: Any) -> Any:
    return requests.Response()


_other_of_the_same_name = functools.wraps(requests.Session.send)(_other)
_REPLACEMENTS = [
    _other,
    _other_of_the_same_name,
    mock.Mock(wraps=_other),
    mock.create_autospec(_other),
    requests.adapters.HTTPAdapter.send,
]


@pytest.mark.parametrize("replacement", _REPLACEMENTS)
def test_a_method_that_was_replaced_is_not_the_librarys(monkeypatch: pytest.MonkeyPatch, replacement: Any) -> None:
    methods = Methods((requests.Session, "get_adapter"), (requests.Session, "send"))
    assert methods.are_original()
    with monkeypatch.context() as patch:
        patch.setattr(requests.Session, "send", replacement)
        assert not methods.are_original()
        assert not methods.are_original()
    assert methods.are_original()
