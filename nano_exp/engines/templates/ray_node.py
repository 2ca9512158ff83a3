"""One part of Ray over the nodes of an attempt, run by node.sh with the engine's own Python: head, join or drive.

Imported by nothing of nano-exp: it may lie in a container that has Python and Ray and nothing else. Every setting is a
variable NX_*. The files that the nodes share are in $NX_ATTEMPT/nodes: `head` (address and token, empty until Ray's
head is up), `failed` (why the bring-up ended: found, why, fix, then lines of a log) and <host>.log.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

POLL_S = 0.1
TOLD = 96  # exit code: the reason stands in `failed`

ATTEMPT = Path(os.environ.get("NX_ATTEMPT", "."))
NODES = ATTEMPT / "nodes"
MARK = "nano_exp_" + os.environ.get("NX_TOKEN", "")  # a Ray resource that only this attempt's nodes have


def fail(found: str, why: str, fix: str, logs: Iterable[str] = ()) -> NoReturn:
    """Record the reason, unless another one came first, and end."""
    try:
        with (NODES / "failed").open("x") as file:
            file.write("\n".join([found, why, fix, *logs]) + "\n")
    except FileExistsError:
        pass
    sys.exit(TOLD)


def own_group() -> None:
    """Be the first of a process group that node.sh can kill whole, and end with node.sh.

    Ray's agents overwrite their environment with a title and outlive their raylet, so they are found by neither.
    """
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG; survives exec
    with (NODES / f"{os.environ['NX_HOST']}.groups").open("a") as file:
        file.write(f"{os.getpid()}\n")


def last_lines(host: str, count: int = 5) -> list[str]:
    """The end of a node's log, each line with the node's name."""
    try:
        lines = (NODES / f"{host}.log").read_text(errors="replace").splitlines()
    except OSError:
        return [f"{host}: no log: its part of the step has not started"]
    return [f"{host}: {line}" for line in lines if line.strip()][-count:] or [f"{host}: its log is empty"]


def own_address(others: Sequence[str]) -> str:
    """The address by which the other nodes reach this one: that of the route to them. Without others: Ray's own."""
    if not others:
        from ray.util import get_node_ip_address

        return str(get_node_ip_address())
    for host in others:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((host, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue  # no such name here, or no route: the next one may do
    return socket.gethostbyname(socket.gethostname())


def require_free(address: str, ports: Iterable[int]) -> None:
    """End with the first port that something else listens on."""
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                host = os.environ["NX_HOST"]
                fail(
                    f"port {port} of {host} ({address}): {error.strerror}",
                    "Ray's head listens there for the other nodes; another job's Ray must not be joined instead",
                    f"another port: engine.ports.gcs={port + 10} (or that port's key), or whole nodes (--exclusive)",
                )


def start_ray(arguments: list[str]) -> None:
    """`ray start ARGUMENTS`, in this process; with --block it stays, and ends when a process of Ray's ends."""
    from ray.scripts.scripts import main

    resources = {
        "worker_units": int(os.environ["NX_GPUS"]),
        "slurm_managed_ray_cluster": 1,
        "topo_rank": int(os.environ["NX_RANK"]) + 1,
        MARK: int(os.environ["NX_RANK"]) + 1,
    }
    low, high = os.environ["NX_WORKER_PORTS"].split()
    sys.argv = ["ray", "start", "--block", "--disable-usage-stats", *arguments]
    sys.argv += [f"--num-gpus={os.environ['NX_GPUS']}", f"--num-cpus={os.environ['NX_CPUS']}"]
    sys.argv += [f"--min-worker-port={low}", f"--max-worker-port={high}", f"--resources={json.dumps(resources)}"]
    sys.argv += in_slot()
    main()


def in_slot() -> list[str]:
    """What a Ray that shares its host with others is told: ports, and its part of the memory as Ray would divide it."""
    if "NX_NODE_PORTS" not in os.environ:
        return []
    names = ["node-manager", "object-manager", "runtime-env-agent"]
    ports = os.environ["NX_NODE_PORTS"].split()
    if has_dashboard():  # without it the agent opens no ports, and a raylet that was given some waits for them
        names += ["dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export"]
        ports += os.environ["NX_AGENT_PORTS"].split()
    flags = [f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)]
    if memory := int(os.environ["NX_MEMORY"]):
        shared = os.statvfs("/dev/shm")
        most = max(shared.f_bavail * shared.f_frsize, 10 * 2**30)  # Ray's own limit, below which it uses the disk
        objects = min(int(0.3 * memory), most)
        flags += [f"--object-store-memory={objects}", f"--memory={memory - objects}"]
    return flags


def has_dashboard() -> bool:
    """Whether this Ray was installed with its dashboard (`ray[default]`)."""
    try:
        import ray.dashboard.optional_deps  # noqa: F401
    except ImportError as error:
        print(f"no dashboard: {error}", flush=True)
        return False
    return True


def head(address: str) -> None:
    """Ray's head on this node."""
    gcs, client, dashboard = (int(port) for port in os.environ["NX_HEAD_PORTS"].split())
    shown = os.environ["NX_DASHBOARD"] == "1" and has_dashboard()
    require_free(address, [gcs, client, dashboard] if shown else [gcs])
    flags = [f"--node-ip-address={address}", f"--port={gcs}"]
    if shown or "NX_NODE_PORTS" in os.environ:
        flags += [f"--ray-client-server-port={client}"]
    if shown:
        flags += ["--include-dashboard=true"]
        flags += [f"--dashboard-host={address}", f"--dashboard-port={dashboard}"]
    else:
        flags += ["--include-dashboard=false"]
    start_ray(["--head", *flags])


def join(deadline: float) -> None:
    """Ray on this node, as a member of the head's cluster once that is up."""
    from ray.scripts import scripts  # noqa: F401  half of the start's time, spent while the head comes up

    while not (words := (NODES / "head").read_text().split())[1:]:
        if time.time() > deadline:
            limit, host = os.environ["NX_JOIN_S"], os.environ["NX_HEAD_HOST"]
            fail(
                f"Ray's head on {host} did not come up within {limit} s (seen from {os.environ['NX_HOST']})",
                "the driver starts when all nodes are there",
                "read the lines below; a slow file system needs a larger engine.join_deadline_s",
                last_lines(host),
            )
        time.sleep(POLL_S)
    address, token = words[:2]
    if token != os.environ["NX_TOKEN"]:
        fail(f"nodes/head is of another attempt ({address})", "a stranger's Ray is not joined", "launch the run again")
    start_ray([f"--address={address}"])


class Cluster:
    """What Ray's head knows of its nodes, asked without becoming one of its drivers."""

    def __init__(self, address: str) -> None:
        from ray._private.state import GlobalState

        raylet: Any = importlib.import_module("ray._raylet")  # compiled: it has no types
        self.state = GlobalState()
        options = raylet.GcsClientOptions.create(
            address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
        )
        self.state._initialize_global_state(options)

    def nodes(self) -> list[dict[str, Any]]:
        """Ray's records (ray.nodes()) of the nodes that live."""
        return [node for node in self.state.node_table() if node["Alive"]]


def listens(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def is_up(address: str, port: int) -> bool:
    """Whether Ray's head can be asked. In a slot it may have to start again, and what asks one that ends is aborted:
    there it is up once `ray start` has written its address."""
    if not listens(address, port):
        return False
    if "NX_NODE_PORTS" not in os.environ:
        return True
    try:
        return Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster").read_text() == f"{address}:{port}"
    except OSError:
        return False


def drive(address: str, deadline: float, driver: list[str]) -> NoReturn:
    """Wait for all declared GPUs and CPUs, then become the driver."""
    import ray._private.state  # noqa: F401  while the head starts

    hosts = os.environ["NX_HOSTS"].split()
    want = {"GPU": int(os.environ["NX_GPUS"]) * len(hosts), "CPU": int(os.environ["NX_CPUS"]) * len(hosts)}
    gcs = int(os.environ["NX_HEAD_PORTS"].split()[0])
    times: dict[str, float] = json.loads((ATTEMPT / "phases.json").read_text())
    times["step"] = float(os.environ["NX_STEP_TIME"] or time.time())
    cluster: Cluster | None = None
    nodes: list[dict[str, Any]] = []
    have: dict[str, float] = {}
    while True:
        if cluster is None and is_up(address, gcs):
            cluster = Cluster(f"{address}:{gcs}")
        if cluster is not None:
            nodes = cluster.nodes()
            if strangers := [n["NodeManagerHostname"] for n in nodes if MARK not in n["Resources"]]:
                fail(
                    f"Ray at {address}:{gcs} has a node that is not this attempt's: {strangers[0]}",
                    "a stranger's Ray is not joined",
                    f"another port: engine.ports.gcs={gcs + 10}",
                )
            if nodes and "head_up" not in times:
                times["head_up"] = time.time()
                (NODES / "head").write_text(f"{address}:{gcs} {os.environ['NX_TOKEN']}\n")
            have = {kind: sum(n["Resources"].get(kind, 0.0) for n in nodes) for kind in want}
            if all(have[kind] >= want[kind] for kind in want):
                break
        if time.time() > deadline:
            missing(hosts, nodes, have, want)
        time.sleep(POLL_S)
    times["all_joined"] = times["driver"] = time.time()
    aside = ATTEMPT / "phases.json.part"
    aside.write_text(json.dumps(times) + "\n")
    aside.replace(ATTEMPT / "phases.json")
    os.environ["RAY_ADDRESS"] = f"{address}:{gcs}"
    if "NX_NODE_PORTS" in os.environ:
        path = [str(NODES / "site"), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    for name in [name for name in os.environ if name.startswith("NX_") and name != "NX_TOKEN"]:
        del os.environ[name]
    sys.stdout.flush()
    os.dup2(3, 1)  # from here on the step's own output: the driver's, which the attempt follows
    os.dup2(4, 2)
    os.closerange(3, 5)
    os.execv(sys.executable, [sys.executable, *driver])


def missing(hosts: list[str], nodes: list[dict[str, Any]], have: dict[str, float], want: dict[str, int]) -> NoReturn:
    """End with the nodes that are not there, and what their logs say."""
    there = {int(node["Resources"][MARK]) - 1 for node in nodes}  # ranks: Slurm counts them along its list of nodes
    absent = [host for rank, host in enumerate(hosts) if rank not in there]
    limit = os.environ["NX_JOIN_S"]
    fix = "look at the node and leave it out: hydra.launcher.exclude=NODE; for a slow start, engine.join_deadline_s=N"
    if not nodes:
        absent = [os.environ["NX_HOST"]]
    if absent:
        logs = [line for host in absent[:3] for line in last_lines(host)]
        fail(f"{', '.join(absent)} did not join Ray within {limit} s", "the driver needs all nodes", fix, logs)
    counts = ", ".join(f"{have.get(kind, 0):.0f} of {want[kind]} {kind}s" for kind in want)
    fail(f"Ray has {counts} after {limit} s", "the driver needs all that the run's config declares", fix)


if __name__ == "__main__":
    role = sys.argv[1]
    own_group()
    until = float(os.environ["NX_STEP_TIME"] or time.time()) + float(os.environ["NX_JOIN_S"])
    if role == "head":
        head(own_address(os.environ["NX_OTHERS"].split()))
    elif role == "join":
        join(until + 5)  # the head's word about a node that is missing comes first
    else:
        drive(own_address(os.environ["NX_OTHERS"].split()), until, sys.argv[2:])
