"""NeMo RL imported once: `python zygote.py CHECKOUT SCRIPT SOCKET` executes the script for each that asks, in a fork.

An import takes 15 seconds, and there are tens of attempts. `ask` is all of the script that an attempt starts: it hands
over its own output, environment, folder and arguments, and ends as the fork ends, by its exit code or its signal.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path


def ask(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(address)
        wanted = {"argv": sys.argv, "env": dict(os.environ), "cwd": str(Path.cwd())}
        sent = json.dumps(wanted).encode()
        socket.send_fds(asked, [len(sent).to_bytes(8, "big")], [1, 2])
        asked.sendall(sent)
        status = int.from_bytes(asked.recv(8), "big")
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.WEXITSTATUS(status))


def serve(checkout: str, script: str, address: str) -> None:
    import driver

    driver.prepare(checkout)
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(8)
    print("ready", flush=True)
    while True:
        asked, _ = server.accept()
        length, fds, _, _ = socket.recv_fds(asked, 8, 2)
        left, sent = int.from_bytes(length, "big"), b""
        while len(sent) < left:
            sent += asked.recv(left - len(sent))
        child = os.fork()
        if child == 0:
            server.close()
            asked.close()
            execute(checkout, script, json.loads(sent), fds)
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(child, 0)
        asked.sendall(status.to_bytes(8, "big"))
        asked.close()


def execute(checkout: str, script: str, wanted: dict[str, object], fds: list[int]) -> None:
    """In the fork: the script, and its end, as its own process would have them."""
    import driver

    for fd, own in zip(fds, (1, 2), strict=True):
        os.dup2(fd, own)
    os.environ.clear()
    os.environ.update(wanted["env"])  # type: ignore[arg-type]
    os.chdir(str(wanted["cwd"]))
    sys.argv = list(wanted["argv"])  # type: ignore[call-overload]
    driver.run(checkout, script)
    sys.exit(0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    serve(*sys.argv[1:])
