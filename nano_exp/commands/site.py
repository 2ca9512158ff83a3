"""site init: a file of conf/site from what the cluster shows."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from nano_exp.commands import Commands

if TYPE_CHECKING:
    from nano_exp.sites.look import Look
    from nano_exp.sites.propose import Proposal


def add(commands: Commands, results: argparse.ArgumentParser) -> None:
    site = commands.add_parser(
        "site",
        epilog="nano-exp site init mysite",
        help="write conf/site/NAME.yaml from what the cluster shows",
        description="A site is one file in conf/site: where jobs are sent, and where things lie there.",
    )
    which = site.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = which.add_parser("init", help="look at the cluster, ask what cannot be seen, write the site's file")
    init.add_argument("name", nargs="?", default="", metavar="NAME", help="site=NAME (default: the cluster's own name)")
    init.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the site; may be repeated"
    )
    init.add_argument("--yes", action="store_true", help="ask nothing: what cannot be seen is left to be filled in")
    init.add_argument("--force", action="store_true", help="replace a file that is there")
    init.add_argument("--print", action="store_true", help="print it and write nothing")
    init.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    from nano_exp import files, project, slurm
    from nano_exp.compose import CONF_DIR
    from nano_exp.errors import UserError
    from nano_exp.sites import look, write

    sites = CONF_DIR / "site"
    if arguments.name:
        write.path_of(write.require_name(arguments.name), sites, arguments.force or arguments.print)
    chosen = write.given(arguments.set, project.at(sites / "default.yaml"))
    slurm.require()
    print("looking at the cluster ...", file=sys.stderr, flush=True)
    seen = look.looked()
    if not seen.nodes and "partition" not in chosen:
        raise UserError(
            "sinfo names no node",
            "Slurm does not answer from this host, and what a site needs is mostly what Slurm says",
            "nano-exp doctor, which says what is wrong; or without Slurm's word: "
            f"nano-exp site init {arguments.name or 'mysite'} --set partition=NAME",
            code=4,
        )
    made = _asked(seen, arguments.name, chosen, arguments.yes)
    path = write.path_of(write.require_name(made.name), sites, arguments.force or arguments.print)
    text = write.text(made)
    if arguments.print:
        print(text, end="")
        return 0
    files.make_dir(sites)
    files.write_text(path, text)
    print(f"{path}\n\n{text}")
    missing = [name for name, key in made.keys.items() if key.ask and key.value is None]
    if missing:
        print(f"to fill in there: {', '.join(missing)}")
    print(f"next: nano-exp doctor model=nano_9b cluster=1n8g site={made.name}")
    return 0


def _asked(seen: Look, name: str, chosen: dict[str, Any], silent: bool) -> Proposal:
    """What is seen, and what the user answers where nothing is: each answer may change what follows from it."""
    from nano_exp.sites import propose, write

    later: set[str] = set()
    while True:
        made = propose.proposal(seen, name, chosen)
        if (probed := _probed(seen, made)) is not None:
            seen = probed
            continue
        open_keys = [key for key, one in made.keys.items() if one.ask and key not in chosen and key not in later]
        if silent or not open_keys or not sys.stdin.isatty():
            return made
        key = made.keys[open_keys[0]]
        options = f" [{', '.join(key.options)}]" if key.options else ""
        default = f" (Enter: {key.value})" if key.value is not None else " (Enter: later)"
        answer = input(f"{open_keys[0]}: {key.ask}; {key.how}{options}{default}: ").strip()
        if answer or key.value is not None:
            chosen[open_keys[0]] = write.parsed(answer) if answer else key.value
        else:
            later.add(open_keys[0])


def _probed(seen: Look, made: Proposal) -> Look | None:
    """The look with Slurm's word on whole nodes in the chosen partition; None where it is known."""
    from dataclasses import replace

    from nano_exp.sites import look

    if "exclusive" in seen.tests or not seen.nodes:
        return None
    values = made.values()
    options = [f"--{name}={values[name]}" for name in ("account", "qos") if values.get(name)]
    partition = str(values.get("partition") or "")
    plain = look.tested(partition, options)
    refused = look.tested(partition, [*options, "--exclusive", "--mem=0"])
    return replace(seen, tests={**seen.tests, "exclusive": "" if plain else refused})
