"""The log says which key sent, resubmitted or deleted messages."""

from __future__ import annotations

import logging

import pytest

from .test_dead_letter_pages import fields
from .visitor import LISTEN, ROOT, Site, Visitor


def test_each_action_is_logged_with_the_key(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    root, looker = Visitor(site, ROOT), Visitor(site, LISTEN)
    site.dead_letter("orders", "a", "b", "c", session_id="d", reason="secret reason")
    caplog.clear()
    with caplog.at_level(logging.INFO, "azsession.server.explorer"):
        root.post("send", {"session_id": "s\n1", "body": "a secret body"}, {"queue": "orders"})
        looker.post("purge", {}, {"queue": "orders", "session": "s\n1"})
        looker.post("resubmit", {}, {"queue": "orders", "number": 2})
        looker.post("delete", {}, {"queue": "orders", "number": 99})
        form = fields(root.get("delete", {"queue": "orders"}).text)
        root.post("delete", form, {"queue": "orders"}, csrf=form["csrf"])
    # Threads of earlier tests can log, too.
    records = [record for record in caplog.records if record.name.startswith("azsession.server.explorer")]
    assert [record.getMessage() for record in records] == [
        r"the key 'root' sent a message of the session 's\x0a1' of 'orders' in the Explorer",
        r"the key 'looker' deleted 1 message of the session 's\x0a1' of 'orders' in the Explorer",
        "the key 'looker' resubmitted dead letter 2 of 'orders' in the Explorer",
        "the key 'root' deleted 2 dead letters of 'orders' in the Explorer",
    ]
    assert {vars(record)["queue"] for record in records} == {"orders"}
    assert [vars(record)["sequence_number"] for record in records] == [None, None, 2, None]
    assert "secret" not in caplog.text
