"""The session REST protocol, version 1, and its plain dialect: routes, headers, bodies, error codes.

The client and the gateway both speak through this room and hold no second copy of it, so they cannot drift apart.

* `routes`: paths and queries, built by the client and read by the gateway.
* `wire`: messages as header and body, and as an envelope.
* `status`: error codes, their HTTP statuses and their exceptions.
* `durations`: durations in ISO 8601 and the settings of a queue.
"""

from __future__ import annotations

#: What a server of version 1 says on every answer.
PROTOCOL_HEADER = "Azsession-Protocol"
PROTOCOL_VERSION = "1"
#: Who holds the session: a UUID, fresh for every time that a client takes a session's lock.
LOCK_ID_HEADER = "Azsession-Lock-Id"
#: ``1`` on a receive of a caller who was told that it has the lock: it is not given the lock anew, whatever the server knows
#: of lock ids that ended. A server that was started anew knows of none.
LOCK_HELD_HEADER = "Azsession-Lock-Held"
#: Which of several gateways: the same on all requests about one holder's session, and in its receipts. No secret. The
#: gateways ignore it; what balances between them may go by it.
ROUTE_HEADER = "Azsession-Route"
#: A UUID per call, the same in its retries.
REQUEST_ID_HEADER = "Azsession-Request-Id"
#: Seconds that the session's lock has left when the answer is made.
LOCK_EXPIRES_HEADER = "Azsession-Lock-Expires-In"
#: Seconds that the server held the request back, waiting. What is left of a lock counts from then, so that a client
#: that counts from its sending can add them: without it a long poll would seem to use up the lock that it renewed.
WAITED_HEADER = "Azsession-Waited"
#: The body is an envelope with that many messages.
COUNT_HEADER = "Azsession-Count"
ERROR_CODE_HEADER = "x-ms-error-code"

ENVELOPE_TYPE = "application/vnd.microsoft.servicebus.json"
JSON_TYPE = "application/json"
