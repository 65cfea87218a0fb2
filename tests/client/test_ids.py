"""Random ids."""

from __future__ import annotations

import uuid

from azsession.client.ids import new_id


def test_an_id_is_a_random_uuid_of_version_4() -> None:
    ids = [new_id() for _ in range(200)]
    assert len(set(ids)) == 200
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)
