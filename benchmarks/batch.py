"""Messages per second of one thread, in batches of 100 and one by one, from a broker with a data file."""

from __future__ import annotations

import time

from .common import QUEUE, Figure, arguments, data_file, fill, gateway, interleaved, show

#: The size of a message body in bytes.
SIZE = 256
#: Messages a second in batches, on 2 cores.
TARGET = 9000


def main() -> None:
    """Measure and print the result."""
    options = arguments("batch", __doc__ or "", rounds=7, messages=5000, batch=100, single=300)
    with data_file() as path, gateway(path) as server, server.provider() as provider:
        fill(provider, "batch", (options.rounds + 1) * options.messages, SIZE)
        fill(provider, "single", (options.rounds + 1) * options.single, SIZE)
        many = provider.create_session_client(QUEUE, "batch")
        single = provider.create_session_client(QUEUE, "single")

        def by_batch() -> float:
            began, done = time.perf_counter(), 0
            while done < options.messages:
                messages = many.receive_messages(options.batch, timeout=5)
                assert messages
                many.complete_messages(messages)
                done += len(messages)
            return done / (time.perf_counter() - began)

        def one_by_one() -> float:
            began = time.perf_counter()
            for _ in range(options.single):
                message = single.receive_message(5)
                assert message is not None
                single.complete_message(message)
            return float(options.single) / (time.perf_counter() - began)

        by_batch()
        one_by_one()
        found = interleaved(options.rounds, single=one_by_one, batch=by_batch)
        many.close()
        single.close()
    show(
        "batch",
        [
            Figure(
                f"messages of {SIZE} bytes a second, received and completed by one thread ({options.rounds} rounds)",
                f"{found['single']:.0f}/s   receive_message + complete_message",
                f"{found['batch']:.0f}/s   receive_messages({options.batch}) + complete_messages",
                found["batch"] / found["single"],
                f"at least {TARGET}/s on 2 cores",
                found["batch"] >= TARGET,
            )
        ],
    )


if __name__ == "__main__":
    main()
