"""The command line of slurm/minicluster."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from . import daemons, lifecycle, network
from .cluster import NODES, Cluster, Failed, Refused, Settings, default_state, load

DOWN, DEGRADED = 3, 4  # exit codes of `status`


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="minicluster",
        description="A real Slurm on one machine: two hosts (mini1, mini2), 8 declared GPUs and 64 CPUs each.",
        epilog="Every command takes --state DIR; clusters with different folders run side by side.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--state",
            type=Path,
            default=os.environ.get("MINICLUSTER_STATE") or default_state(),
            help="the cluster's folder (default: %(default)s, or $MINICLUSTER_STATE)",
        )
        return command

    up = add("up", "bring the cluster up, or repair one that is half up")
    up.add_argument("--no-accounting", action="store_true", help="no slurmdbd: sacct fails, as on many sites")
    up.add_argument("--fast", action="store_true", help="short timers, for tests (a requeued job starts after 4-6 s)")
    up.add_argument("--max-array-size", type=int, default=1001, metavar="N", help="Slurm's MaxArraySize (default 1001)")
    up.add_argument(
        "--network", default="10.77.0.0/16", help="private addresses to take a /24 from (default %(default)s)"
    )
    up.add_argument(
        "--timeout", type=float, default=60, metavar="S", help="seconds for each daemon (default %(default)s)"
    )
    add("down", "end every process and job of the cluster and remove all that it made")
    status = add("status", f"daemons and nodes; exit code 0 up, {DOWN} down, {DEGRADED} in part")
    status.add_argument("--json", action="store_true", help="the same as JSON")
    add("env", "print the export lines that make a shell use this cluster")
    execute = add("exec", "run a command against this cluster")
    execute.add_argument("--on", choices=NODES, help="run it on that node, outside of any job")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    for name, text in (("node-down", "cut a node's network link"), ("node-up", "restore a node's network link")):
        add(name, text).add_argument("node", choices=NODES)
    kill = add("kill", "kill one daemon (job steps go on)")
    kill.add_argument("daemon", choices=daemons.names(True))
    kill.add_argument("--signal", default="KILL", help="signal to send (default %(default)s)")
    start = add("start", "start one daemon again")
    start.add_argument("daemon", choices=daemons.names(True))
    start.add_argument("--timeout", type=float, default=60, metavar="S", help="seconds to become ready")
    return top


def _cluster(state: Path) -> Cluster:
    found = load(state)
    if found is None:
        raise Refused(
            f"there is no mini cluster at {state}", "it has no cluster.json", "`up` first, or name its --state"
        )
    return found


def _daemon(cluster: Cluster, name: str) -> str:
    if name not in daemons.names(cluster.settings.accounting):
        raise Refused(f"this cluster has no {name}", "it was brought up with --no-accounting", "`down`, then `up`")
    return name


def status(state: Path) -> dict[str, Any]:
    """What `status --json` prints."""
    cluster = load(state)
    if cluster is None:
        return {"state": "down", "folder": str(state)}
    settings = cluster.settings
    problems = lifecycle.unhealthy(cluster)
    running = {name: next(iter(daemons.pids(cluster, name)), None) for name in daemons.names(settings.accounting)}
    nodes = daemons.node_states(cluster) if running["slurmctld"] else {}
    return {
        "state": "degraded" if problems else "up",
        "folder": str(state),
        "slurm_conf": str(cluster.slurm_conf),
        "address": cluster.address,
        "accounting": settings.accounting,
        "fast": settings.fast,
        "max_array_size": settings.max_array_size,
        "daemons": running,
        "nodes": {n: {"address": cluster.node_address(n), **nodes.get(n, {"state": "unknown"})} for n in NODES},
        "problems": problems,
    }


def _print_status(facts: dict[str, Any]) -> None:
    print(f"{facts['state']}  {facts['folder']}")
    if facts["state"] == "down":
        return
    words = [
        "accounting" if facts["accounting"] else "no accounting",
        "short timers" if facts["fast"] else "Slurm's timers",
    ]
    print(f"  {', '.join(words)}, MaxArraySize {facts['max_array_size']}")
    for name, pid in facts["daemons"].items():
        print(f"  {name:<14} {'not running' if pid is None else f'pid {pid}'}")
    for node, row in facts["nodes"].items():
        print(f"  {node:<14} {row['address']:<14} {row['state']:<10} {row.get('gres', '')}")
    for line in facts["problems"]:
        print(f"  ! {line}")
    if facts["problems"]:
        print("  `up` (with its own settings) repairs it, `down` removes it")


def _execute(cluster: Cluster, argv: list[str], node: str | None) -> None:
    """Become the command; does not return."""
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if not argv:
        raise Refused("no command was given", "`exec` runs one", "minicluster exec -- squeue")
    if node is not None:
        found = daemons.pids(cluster, f"slurmd:{node}")
        if not found:
            raise Refused(
                f"slurmd:{node} is not running", "its host's namespaces are found by it", f"start slurmd:{node}"
            )
        argv = ["nsenter", f"--target={found[0]}", "--net", "--uts", "--mount", "--wdns=" + str(Path.cwd()), *argv]
    sys.stdout.flush()
    try:
        os.execvpe(argv[0], argv, {**os.environ, **cluster.client_env})
    except FileNotFoundError:
        raise Refused(f"no command {argv[0]!r}", "it is not on PATH", "check its name") from None


def _run(args: argparse.Namespace) -> int:
    state = Path(args.state).resolve()
    if args.command == "up":
        settings = Settings(not args.no_accounting, args.fast, args.max_array_size, args.network)
        lifecycle.up(state, settings, args.timeout, _say)
        _say(f'  next: eval "$({shlex.quote(sys.argv[0])} env --state {shlex.quote(str(state))})"; sinfo')
    elif args.command == "down":
        lifecycle.down(state, _say)
    elif args.command == "status":
        facts = status(state)
        if args.json:
            print(json.dumps(facts, indent=1))
        else:
            _print_status(facts)
        return {"up": 0, "down": DOWN}.get(facts["state"], DEGRADED)
    elif args.command == "env":
        for name, value in _cluster(state).client_env.items():
            print(f"export {name}={shlex.quote(value)}")
    elif args.command == "exec":
        _execute(_cluster(state), args.argv, args.on)
    elif args.command in ("node-down", "node-up"):
        cluster = _cluster(state)
        network.set_link(cluster, args.node, args.command == "node-up")
        if args.command == "node-up":
            # A slurmd registers on SIGHUP; slurmctld by itself looks for a lost node only every 40 s or so.
            daemons.kill(cluster, f"slurmd:{args.node}", signal.SIGHUP)
    elif args.command == "kill":
        cluster = _cluster(state)
        name = "SIG" + args.signal.upper().removeprefix("SIG")
        if name not in signal.Signals.__members__:
            raise Refused(f"no signal {args.signal!r}", "it is none of this system's", "KILL, TERM, STOP, CONT, ...")
        killed = daemons.kill(cluster, _daemon(cluster, args.daemon), signal.Signals[name])
        _say(f"{args.daemon}: {name} sent to {killed}" if killed else f"{args.daemon} was not running")
    else:
        cluster = _cluster(state)
        with lifecycle.locked(state):
            lifecycle.ensure_daemon(cluster, _daemon(cluster, args.daemon), args.timeout, _say)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; 2: refused, nothing was changed; 1: failed on the way."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 2
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        if args.command == "up":
            print("`up` again tries once more, `down` removes what there is", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `up` goes on from here, `down` removes what there is", file=sys.stderr)
        return 130
