"""Listing, peeking, dead letters and queues: what a provider checks and how it pages."""

from __future__ import annotations

from typing import Any

import pytest
import responses

from azsession import ProviderError, ServiceBusProvider, ValidationError

from .orders import CONNECTION_STRING
from .server_responses import answered


@pytest.mark.parametrize("number", [-1, 2**63, 1.5, True, "0&max=5"])
def test_a_wrong_from_sequence_number_is_refused_without_a_request(number: Any) -> None:
    with responses.RequestsMock(), ServiceBusProvider.from_connection_string(CONNECTION_STRING) as provider:
        with pytest.raises(ValidationError, match="from_sequence_number"):
            provider.peek_messages("orders", "s1", from_sequence_number=number)
        with pytest.raises(ValidationError, match="from_sequence_number"):
            provider.dead_letters("orders", from_sequence_number=number)


def test_a_server_that_repeats_a_page_of_sessions_is_asked_twice() -> None:
    page = {"sessions": [{"SessionId": f"s{number}", "MessageCount": 1} for number in range(1000)]}
    with answered(200, page, {}) as (provider, server):
        with pytest.raises(ProviderError, match="again and again"):
            provider.list_sessions("q")
        assert [path for path in server.paths if "sessions" in path] == [
            "/q/sessions?max=1000",
            "/q/sessions?max=1000&after=s999",
        ]
