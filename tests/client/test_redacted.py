"""`Redacted`: text that error reports do not show."""

from __future__ import annotations

import pickle

from azsession.client.redacted import Redacted


def test_the_repr_hides_the_text_also_inside_other_values() -> None:
    assert repr(Redacted("token")) == "<redacted>"
    assert "token" not in repr({"lock": [Redacted("token")]})


def test_it_is_the_same_text_everywhere_else() -> None:
    token = Redacted("token")
    assert token == "token"
    assert f"/messages/{token}" == "/messages/token"
    assert pickle.loads(pickle.dumps(token)) == "token"
