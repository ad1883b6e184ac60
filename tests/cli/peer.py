# SPDX-License-Identifier: Apache-2.0
"""A server on a Unix socket that sends given answers, while nitrohb runs in this process."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from .process import PATIENCE, listening


@contextmanager
def answering(path: Path, end: bytes, *answers: bytes) -> Generator[list[bytes]]:
    """Run a server in a thread: read from each client up to an end, send an answer, and close.

    Yields the list of what the clients have sent.
    """
    received: list[bytes] = []
    with listening(path) as server, ThreadPoolExecutor() as pool:

        def answer_all() -> None:
            for answer in answers:
                client, _ = server.accept()
                with client:
                    client.settimeout(PATIENCE)
                    data = b""
                    while not data.endswith(end):
                        more = client.recv(4096)
                        assert more, f"the client closed after {data!r}"
                        data += more
                    received.append(data)
                    client.sendall(answer)

        served = pool.submit(answer_all)
        yield received
        served.result(PATIENCE)
    path.unlink()
