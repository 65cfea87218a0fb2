"""Reads the logs of gunicorn: complaints, and which worker processes answered the requests of a client."""

from __future__ import annotations

from collections import defaultdict

#: gunicorn writes the process id, the path and the query of each request. The query is the client's name for the request.
ACCESS = ["--access-logfile", "-", "--access-logformat", "%(p)s %(U)s %(q)s"]


def complaints(log: str) -> list[str]:
    """Return all lines of a log except the information of gunicorn."""
    return [line for line in log.splitlines() if "[INFO]" not in line]


def assert_workers_settle_for_each_other(access_log: str, take_path: str) -> None:
    """Check that several workers handed messages out, and that one settled a message which another had received.

    Args:
        access_log: The log of the requests, in the form of `ACCESS`.
        take_path: The beginning of the path of the requests that receive messages. The others settle.
    """
    took: dict[str, str] = {}
    settled: dict[str, set[str]] = defaultdict(set)
    for line in access_log.splitlines():
        worker, path, tag = line.split()
        if path.startswith(take_path):
            took[tag] = worker
        else:
            settled[tag].add(worker)
    assert len(set(took.values())) >= 2
    assert any(workers - {took[tag]} for tag, workers in settled.items())
