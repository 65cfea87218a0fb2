"""Changes of the attributes of a stored message, by the client that settles it. `SettleCall` applies them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ... import amqp
from ...amqp.message_mapping import to_properties
from ...messages import AttributeValue
from ...protocol.attributes import from_json, to_json
from ...validation import MAX_ATTRIBUTES_SIZE, attributes_size

#: The stored JSON of a message, and the parts of its AMQP message.
Content = tuple[str, bytes | None]


def changed_content(content: Content, changes: Mapping[str, AttributeValue]) -> Content | None:
    """Return the content of a message with changed attributes; `None` if they would be too large together."""
    properties, encoded = content
    packed = json.loads(properties)
    attributes = {**from_json(packed.get("attributes", {}), packed.pop("attribute_types", {})), **changes}
    if attributes_size(attributes) > MAX_ATTRIBUTES_SIZE:
        return None
    packed["attributes"], types = to_json(attributes)
    if types:
        packed["attribute_types"] = types
    if encoded is not None:
        encoded = amqp.with_properties(encoded, to_properties(changes))
    return json.dumps(packed, separators=(",", ":")), encoded
