"""up and down. `up` makes whatever is missing, so that it also repairs; `down` removes whatever is found."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import daemons, network, preflight
from .cluster import ACCOUNT, GPUS, NODES, Cluster, Failed, Refused, Settings, load, save

NVIDIA_MAJOR = 195  # of the real driver's device nodes
Say = Callable[[str], None]


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """One `up`, `down` or `start` at a time on a state folder. The folder itself is the lock: no file is left."""
    while True:
        state.mkdir(parents=True, exist_ok=True, mode=0o755)
        handle = os.open(state, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if state.is_dir() and state.stat().st_ino == os.fstat(handle).st_ino:
                yield
                return
        finally:
            os.close(handle)


def unhealthy(cluster: Cluster) -> list[str]:
    """What keeps a cluster from being up, one line each."""
    found = []
    if network.own_slot(cluster.state) != cluster.slot:
        found.append("no bridge")
    found += [f"no network namespace for {n}" for n in NODES if network.netns_inode(cluster.netns(n)) is None]
    running = [name for name in daemons.names(cluster.settings.accounting) if daemons.pids(cluster, name)]
    found += [f"{name} is not running" for name in daemons.names(cluster.settings.accounting) if name not in running]
    if "slurmctld" in running:
        states = daemons.node_states(cluster)
        if not states:
            found.append("slurmctld does not answer")
        for node, row in states.items():
            if f"slurmd:{node}" in running and not daemons.registered(row["state"]):
                found.append(f"{node} is {row['state']} ({row['reason']})")
    return found


def up(state: Path, settings: Settings, seconds: float, say: Say) -> None:
    """Bring the cluster up, or what is missing of it; each daemon has `seconds` to become ready."""
    there = load(state)
    if there and (differences := there.settings.differences(settings)):
        raise Refused(
            f"there is a mini cluster at {state} with other settings",
            "; ".join(differences),
            f"`down` first (it ends the jobs), or give its own settings, or another --state (this: {state})",
        )
    wanted = there or Cluster(state, settings)
    found = preflight.problems(wanted)
    if found:
        raise Refused(
            "the mini cluster cannot start here; nothing was changed",
            "".join(f"\n    - {line}" for line in found).lstrip(),
            "mend all of these and type `up` again",
        )
    if there and not unhealthy(there):
        say(f"the mini cluster is up already ({state})")
        return
    began = time.monotonic()
    with locked(state):
        _converge(wanted, seconds, say)
    say(f"up in {time.monotonic() - began:.1f} s: {', '.join(NODES)}, {GPUS} declared GPUs each ({state})")


def _converge(wanted: Cluster, seconds: float, say: Say) -> None:
    save(wanted)  # first, so that `down` knows the folder for ours whatever happens next
    cluster = network.reserve(wanted)
    save(cluster)
    for folder in ("log", "slurmctld", "spool", "devices", "scratch", "tmp"):
        (cluster.state / folder).mkdir(exist_ok=True)
    _write_files(cluster, say)
    _make_devices(cluster)
    network.ensure(cluster)
    _share_scratch(cluster)
    say(f"  network: {cluster.subnet} on {cluster.bridge}")
    if cluster.settings.accounting:
        daemons.make_database(cluster)
    slurmds = [f"slurmd:{node}" for node in NODES]
    for name in daemons.names(cluster.settings.accounting):
        if name not in slurmds:
            ensure_daemon(cluster, name, seconds, say)
        if name == "slurmdbd":
            _fill_accounting(cluster)
    started = {name: _start_unless_well(cluster, name) for name in slurmds}
    for name, process in started.items():
        _wait(cluster, name, process, seconds, say)
    _check_between_nodes(cluster)


def _write_files(cluster: Cluster, say: Say) -> None:
    """The configuration files and munge's key. New addresses or ports mean that everything has to start again."""
    changed = False
    for name, text in cluster.files().items():
        path = cluster.state / name
        if path.exists() and path.read_text() != text:
            changed = True
        path.touch(mode=0o600 if name == "slurmdbd.conf" else 0o644)
        path.write_text(text)
    key = cluster.state / "munge.key"
    if not key.exists() or key.stat().st_size < 32:
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
    if changed and daemons.everything(cluster):
        say("  the configuration has changed: every daemon starts again")
        daemons.kill_all(cluster)


def _make_devices(cluster: Cluster) -> None:
    for number in range(GPUS):
        path = cluster.state / "devices" / f"nvidia{number}"
        if not path.exists():
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(NVIDIA_MAJOR, number))


def mounts_under(folder: Path) -> list[str]:
    """Mount points in a folder, the deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), point) for point in points]
    return sorted((p for p in points if p.startswith(f"{folder}/")), key=len, reverse=True)


def _share_scratch(cluster: Cluster) -> None:
    """Make scratch/ a shared mount: what is mounted below it later appears on the nodes too."""
    scratch = str(cluster.state / "scratch")
    if scratch not in mounts_under(cluster.state):
        subprocess.run(["mount", "--bind", scratch, scratch], check=True)
        subprocess.run(["mount", "--make-shared", scratch], check=True)


def _start_unless_well(cluster: Cluster, name: str) -> subprocess.Popen[bytes] | None:
    """Start a daemon that is not running, or runs without answering; None where it runs and answers."""
    if daemons.pids(cluster, name):
        if not daemons.in_old_namespace(cluster, name):
            try:
                daemons.wait_ready(cluster, name, None, 3, lambda _: None)
                return None
            except Failed:
                pass  # running, but deaf (its socket was deleted, say): a new one is started below
        daemons.kill(cluster, name)
    return daemons.start(cluster, name)


def _wait(cluster: Cluster, name: str, process: subprocess.Popen[bytes] | None, seconds: float, say: Say) -> None:
    began = time.monotonic()
    daemons.wait_ready(cluster, name, process, seconds, say)
    say(f"  {name}: " + ("running" if process is None else f"ready after {time.monotonic() - began:.1f} s"))


def ensure_daemon(cluster: Cluster, name: str, seconds: float, say: Say) -> None:
    """Have a daemon running and answering."""
    _wait(cluster, name, _start_unless_well(cluster, name), seconds, say)


def _sacctmgr(cluster: Cluster, *args: str) -> str:
    env = {**os.environ, **cluster.client_env}
    done = subprocess.run(["sacctmgr", *args], env=env, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise Failed(f"`sacctmgr {' '.join(args)}` failed: {done.stdout.strip()} {done.stderr.strip()}")
    return done.stdout


def _fill_accounting(cluster: Cluster) -> None:
    """Register the cluster and the account, with root as its user."""
    if "mini" not in _sacctmgr(cluster, "-nP", "list", "cluster", "format=cluster").split():
        _sacctmgr(cluster, "-i", "add", "cluster", "mini")
    known = _sacctmgr(cluster, "-nP", "list", "assoc", "format=account,user").split()
    if f"{ACCOUNT}|" not in known:
        _sacctmgr(cluster, "-i", "add", "account", ACCOUNT, "Cluster=mini", f"Description={ACCOUNT}")
    if f"{ACCOUNT}|root" not in known:
        _sacctmgr(cluster, "-i", "add", "user", "root", f"Account={ACCOUNT}", "Cluster=mini")


def _check_between_nodes(cluster: Cluster) -> None:
    """A packet filter of this machine may let it reach the nodes and yet drop what goes from node to node."""
    first, second = NODES
    target = f"/dev/tcp/{cluster.node_address(second)}/{cluster.slurmd_port}"
    command = ["ip", "netns", "exec", cluster.netns(first), "timeout", "5", "bash", "-c", f"exec 3<>{target}"]
    if subprocess.run(command, capture_output=True).returncode != 0:
        raise Failed(
            f"{first} cannot reach {second}: a packet filter seems to drop bridged traffic; "
            "try `sysctl net.bridge.bridge-nf-call-iptables=0`"
        )


def down(state: Path, say: Say) -> None:
    """End every process of the cluster and remove its namespaces, links, mounts, device nodes and state folder."""
    record = load(state)
    cluster = record or Cluster(state, Settings())
    traces = bool(network.links_of(state)) if preflight.which("ip") else False
    traces = traces or any(network.netns_inode(cluster.netns(n)) is not None for n in NODES)
    traces = traces or bool(daemons.everything(cluster)) or (state / "cluster.json").exists()
    if not traces:
        if state.is_dir() and any(state.iterdir()):
            raise Refused(f"{state} is not a mini cluster's folder", "it has no cluster.json", "name the right --state")
        say(f"the mini cluster is down already ({state})")
        return
    if os.geteuid() != 0:
        raise Refused(f"you are not root (user id {os.geteuid()})", "the daemons are root's", "use sudo")
    began = time.monotonic()
    with locked(state):
        daemons.kill_all(cluster)
        network.remove(cluster)
        for point in mounts_under(state):
            subprocess.run(["umount", "--lazy", point], check=True)  # before the folder goes, or their files would too
        shutil.rmtree(state)
    say(f"down in {time.monotonic() - began:.1f} s, nothing left ({state})")
