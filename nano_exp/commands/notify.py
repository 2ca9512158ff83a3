"""notify: try the receivers of site.notify."""

from __future__ import annotations

import argparse

from nano_exp.commands import Commands


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    notify = commands.add_parser(
        "notify",
        epilog="nano-exp notify site=mysite",
        help="send a test message to whom site.notify names, and say what came of it",
    )
    notify.add_argument("overrides", nargs="*", help="as for launch.py: site=mysite")
    notify.set_defaults(run=_notify)


def _notify(given: argparse.Namespace) -> int:
    import getpass
    import socket
    from pathlib import Path

    from nano_exp import environment
    from nano_exp.errors import UserError
    from nano_exp.launch import points
    from nano_exp.notify.message import Message
    from nano_exp.notify.receivers import EXAMPLE, receivers
    from nano_exp.notify.send import send

    config = points.expanded(given.overrides).frozen[0].config
    every = receivers(config["site"].get("notify"))
    if not every:
        raise UserError(
            f"site.notify of site={config['site']['name']} is empty",
            "it names who is told",
            f"nano-exp notify {' '.join(given.overrides)} site.notify='{EXAMPLE}'".replace("  ", " "),
        )
    path = environment.find(Path.cwd())
    if path is not None:
        environment.enter(path)
    title = f"nano-exp: a test message of {getpass.getuser()} on {socket.gethostname()}"
    problems = send(Message("done", "test", "test", title), every)
    for receiver in every:
        wrong = next((line for line in problems if line.startswith(f"{receiver}: ")), "")
        print(wrong or f"{receiver}: told")
    return 1 if problems else 0
