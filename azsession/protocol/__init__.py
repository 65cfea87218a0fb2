"""The session REST protocol, version 1, and its plain dialect. Client and gateway share this package.

* `routes`: paths and queries. The client builds them, the gateway parses them.
* `wire`: messages as headers and body, and as an envelope.
* `combined`: messages beside other results, as the answer of a combined request.
* `error_codes`: the error codes, with their HTTP statuses and exceptions.
* `queue_json`: durations in ISO 8601, and the settings of a queue as JSON.
"""

from __future__ import annotations

#: The protocol's version, on every response of a server that speaks it.
PROTOCOL_HEADER = "Azsession-Protocol"
PROTOCOL_VERSION = "1"
#: The extensions of version 1 that a server has, separated by commas, on every response. A client uses an extension only with
#: a server that has it.
EXTENSIONS_HEADER = "Azsession-Extensions"
#: Fetching messages ahead counts no delivery: ``taken`` on a receive, ``take`` and ``release`` in ``$settle``.
FETCH_AHEAD = "fetch-ahead"
#: ``GET /{entity}/$statistics``, and the holder and more in the list of sessions.
STATISTICS = "statistics"
#: Combined requests: an accept returns messages, ``$settle`` returns messages, and a release settles.
COMBINED = "combined"
SERVER_EXTENSIONS = f"{FETCH_AHEAD}, {STATISTICS}, {COMBINED}"
#: The holder of a session's lock: a UUID that the client creates each time it takes the lock.
LOCK_ID_HEADER = "Azsession-Lock-Id"
#: ``1`` on a receive of a client that already held the lock under this lock id. The server must not grant a new lock to it. A
#: server that was restarted does not remember the lock ids that ended, so the client has to say it.
LOCK_HELD_HEADER = "Azsession-Lock-Held"
#: A value for load balancers: the same on all requests about one holder's session and in its receipts. Gateways ignore it.
#: It is not a secret.
ROUTE_HEADER = "Azsession-Route"
#: A UUID for each call. The retries of a call have the same.
REQUEST_ID_HEADER = "Azsession-Request-Id"
#: Seconds until the session's lock expires, at the time of the response.
LOCK_EXPIRES_HEADER = "Azsession-Lock-Expires-In"
#: Seconds that the server waited before it responded. The client counts the lock's duration from the time of its request, and
#: adds these seconds. Otherwise a long poll would seem to use up the lock that it renewed.
WAITED_HEADER = "Azsession-Waited"
#: The client that receives or accepts, for people who look at sessions: its host name and process id.
CLIENT_HEADER = "Azsession-Client"
#: The number of messages in the body, which is an envelope.
COUNT_HEADER = "Azsession-Count"
#: The error code of a response, as in Azure's REST APIs.
ERROR_CODE_HEADER = "x-ms-error-code"

ENVELOPE_TYPE = "application/vnd.microsoft.servicebus.json"
JSON_TYPE = "application/json"
#: A backup: an SQLite database (https://www.iana.org/assignments/media-types/application/vnd.sqlite3).
SQLITE_TYPE = "application/vnd.sqlite3"
