"""The cluster's daemons: how each is started, found again, known to be ready, and killed.

A daemon is found by a mark in its environment, not by a pid file: the mark is right after a crash, a reboot or a
removed state folder, and a reused process id cannot be mistaken for a daemon.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cluster import NODES, Cluster, Failed
from .network import NETNS_FOLDER, netns_inode
from .preflight import which

MARK = "MINICLUSTER_DAEMON"
LOG_LINES = 15  # of a daemon's log, shown when it fails


@dataclass(frozen=True)
class Daemon:
    """name: as users type it; argv: what to start; ready: whether it answers; comms: its processes' names."""

    name: str
    argv: list[str]
    ready: Callable[[], bool]
    comms: tuple[str, ...]
    node: str | None = None


def names(accounting: bool) -> list[str]:
    """The daemons of a cluster, in the order in which they start."""
    return ["munged", *(["mariadbd", "slurmdbd"] if accounting else []), "slurmctld", *(f"slurmd:{n}" for n in NODES)]


def _answers(kind: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(kind) as s:
        s.settimeout(1)
        return s.connect_ex(address) == 0


def node_states(cluster: Cluster) -> dict[str, dict[str, str]]:
    """node -> state, gres and reason as sinfo tells them; empty when slurmctld does not answer."""
    command = ["sinfo", "--noheader", "--Node", "--partition=batch", "--format=%N|%T|%G|%E"]
    env = {**os.environ, **cluster.client_env}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=5)
    except subprocess.TimeoutExpired:
        return {}
    rows = [line.split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3]
    return {node: {"state": state, "gres": gres, "reason": reason} for node, state, gres, reason in rows}


def registered(state: str) -> bool:
    """Whether a node's state (`idle`, `mixed*`, `down`...) means that its slurmd has registered and answers."""
    return bool(state) and not state.endswith("*") and not state.startswith(("unk", "down"))


def daemon(cluster: Cluster, name: str) -> Daemon:
    """The daemon of that name."""
    state, conf = cluster.state, str(cluster.slurm_conf)
    if name == "munged":
        options = {
            "socket": "munge.socket",
            "key-file": "munge.key",
            "pid-file": "munge.pid",
            "seed-file": "munge.seed",
        }
        paths = [f"--{option}={state / file}" for option, file in options.items()]
        # --force: root's own folder may be closed to others. --origin: no look-up of this machine's name.
        argv = ["munged", "--foreground", "--force", "--origin=127.0.0.1", "--num-threads=10", *paths]
        return Daemon(name, argv, lambda: _answers(socket.AF_UNIX, f"{state}/munge.socket"), ("munged",))
    if name == "mariadbd":
        argv = ["mariadbd", f"--defaults-file={state}/mariadb.cnf"]
        return Daemon(name, argv, lambda: _answers(socket.AF_UNIX, f"{state}/mariadb.socket"), ("mariadbd",))
    if name == "slurmdbd":
        ready = (cluster.address, cluster.slurmdbd_port)
        return Daemon(name, ["slurmdbd", "-D"], lambda: _answers(socket.AF_INET, ready), ("slurmdbd",))
    if name == "slurmctld":
        # Its own host name, so that slurm.conf holds on any machine.
        argv = ["unshare", "--uts", "sh", "-c", f"hostname minictl && exec slurmctld -D -f {conf}"]
        at = (cluster.address, cluster.slurmctld_port)
        comms = ("slurmctld", "slurmscriptd")
        return Daemon(name, argv, lambda: _answers(socket.AF_INET, at) and bool(node_states(cluster)), comms)
    kind, _, node = name.partition(":")
    if kind != "slurmd" or node not in NODES:
        raise ValueError(f"no daemon {name!r}")
    # `ip netns exec` would mount /sys anew, and slurmd then finds no cgroup file system. Mounts are a private copy in
    # which the nodes' names resolve.
    inside = f"hostname {node} && mount --bind {state}/hosts /etc/hosts && exec slurmd -D -N {node} -f {conf}"
    argv = ["nsenter", f"--net={NETNS_FOLDER / cluster.netns(node)}"]
    argv += ["unshare", "--uts", "--mount", "--propagation=slave", "sh", "-c", inside]

    def answers() -> bool:
        listens = _answers(socket.AF_INET, (cluster.node_address(node), cluster.slurmd_port))
        return listens and registered(node_states(cluster).get(node, {}).get("state", ""))

    return Daemon(name, argv, answers, ("slurmd",), node)


def _processes() -> list[tuple[int, str, str]]:
    """(pid, comm, mark) of every live process; mark is empty for strangers. Zombies are not alive."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            comm = (folder / "comm").read_text().strip()
            status = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue  # it ended while we looked, or it is another user's
        if status == "Z":
            continue
        mark = next((e for e in environ.split(b"\0") if e.startswith(MARK.encode() + b"=")), b"")
        found.append((int(folder.name), comm, os.fsdecode(mark.partition(b"=")[2])))
    return found


def pids(cluster: Cluster, name: str) -> list[int]:
    """The live processes of one daemon, the main one first (slurmctld has a helper)."""
    comms = daemon(cluster, name).comms
    mark = f"{cluster.state}:{name}"
    return sorted(pid for pid, comm, its_mark in _processes() if its_mark == mark and comm in comms)


def everything(cluster: Cluster) -> list[int]:
    """Every process of the cluster: daemons, job steps, and whatever jobs left running in the nodes' namespaces."""
    inodes = {inode for node in NODES if (inode := netns_inode(cluster.netns(node))) is not None}
    found = []
    for pid, _, mark in _processes():
        try:
            inside = Path(f"/proc/{pid}/ns/net").stat().st_ino in inodes
        except OSError:
            continue
        if (inside or mark.startswith(f"{cluster.state}:")) and pid != os.getpid():
            found.append(pid)
    return found


def kill_all(cluster: Cluster, seconds: float = 10) -> None:
    """SIGKILL every process of the cluster and wait until none is left."""
    deadline = time.monotonic() + seconds
    while left := everything(cluster):
        for pid in left:
            _signal(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Failed(f"these processes do not end: {left}")
        time.sleep(0.05)


def kill(cluster: Cluster, name: str, number: signal.Signals = signal.SIGKILL, seconds: float = 10) -> list[int]:
    """Send a signal to one daemon (not to its job steps) and wait until it has ended; the pids it had."""
    found = pids(cluster, name)
    for pid in found:
        _signal(pid, number)
    deadline = time.monotonic() + seconds
    while number in (signal.SIGKILL, signal.SIGTERM) and pids(cluster, name):
        if time.monotonic() > deadline:
            raise Failed(f"{name} did not end within {seconds:.0f} s of {number.name}")
        time.sleep(0.05)
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended by itself, which is what was wanted


def start(cluster: Cluster, name: str) -> subprocess.Popen[bytes]:
    """Start a daemon in its own session: it outlives the shell that ran `up`."""
    it = daemon(cluster, name)
    program = which(it.argv[0]) or it.argv[0]
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "SLURM_CONF": str(cluster.slurm_conf),
        "MYSQL_UNIX_PORT": str(cluster.state / "mariadb.socket"),
        MARK: f"{cluster.state}:{name}",
    }
    with cluster.output(name).open("ab") as log:
        return subprocess.Popen(
            [program, *it.argv[1:]],
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def last_lines(path: Path, count: int = LOG_LINES) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return f"  ({path} was not written)"
    return "\n".join([f"last lines of {path}:", *(f"  {line}" for line in lines)])


def wait_ready(
    cluster: Cluster, name: str, process: subprocess.Popen[bytes] | None, seconds: float, say: Callable[[str], None]
) -> None:
    """Wait until a daemon answers. Failed, with the end of its log, when it exits or the deadline passes."""
    it = daemon(cluster, name)
    began = told = time.monotonic()
    while not it.ready():
        now = time.monotonic()
        if process is not None and process.poll() is not None:
            raise Failed(f"{name} exited with code {process.returncode}\n{last_lines(cluster.output(name))}")
        if now - began > seconds:
            raise Failed(f"{name} was not ready within {seconds:.0f} s\n{last_lines(cluster.output(name))}")
        if now - told > 3:
            say(f"  {name}: waiting, {now - began:.0f} of at most {seconds:.0f} s")
            told = now
        time.sleep(0.1)


def in_old_namespace(cluster: Cluster, name: str) -> bool:
    """Whether a slurmd runs in a network namespace that has since been made anew."""
    node = daemon(cluster, name).node
    if node is None:
        return False
    inode = netns_inode(cluster.netns(node))
    return any(Path(f"/proc/{pid}/ns/net").stat().st_ino != inode for pid in pids(cluster, name))


def make_database(cluster: Cluster) -> None:
    """The database's own files, once; made aside and renamed, so that an interrupted `up` leaves no half of them."""
    final, draft = cluster.state / "mariadb", cluster.state / "mariadb.new"
    if final.is_dir():
        return
    shutil.rmtree(draft, ignore_errors=True)
    program = which("mariadb-install-db") or "mariadb-install-db"
    command = [program, "--no-defaults", f"--datadir={draft}", "--user=root", "--skip-test-db", "--skip-name-resolve"]
    command += ["--auth-root-authentication-method=socket", "--innodb-log-file-size=16M"]
    # Marked so that `down` ends it if `up` was killed. TMPDIR: a mariadbd that starts removes what others have in it.
    env = {**os.environ, MARK: f"{cluster.state}:mariadb-install-db", "TMPDIR": str(cluster.state / "tmp")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"mariadb-install-db failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    draft.rename(final)
