"""Several nodes on the mini cluster: real Ray over two hosts, brought up, refused, killed in part."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import MiniCluster
from launching import STANDIN, Lab, assert_executed_once, kinds, no_ray_beside, setting
from minicluster_tool import TOOL
from pace import limit, paced

from nano_exp.store import runs

pytestmark = pytest.mark.slurm

NODES = (
    "model=nano_12b",
    "cluster=2n8g",
    "site=minicluster",
    f"site.checkout={STANDIN}",
    f"site.python={sys.executable}",
    "grpo.max_num_steps=3",
    setting("RAY", 1),
    "slurm.requeue=false",
)
#: One GPU and one core on each of the two nodes, so that several such runs share them.
SHARED = (
    "cluster.gpus_per_node=1",
    "slurm.cpus_per_node=1",
    "ignore=[cpus_for_ray,host_memory_fits]",
    setting("STEP_SECONDS", 300),
)


@pytest.fixture
def lab(minicluster: MiniCluster, tmp_path: Path) -> Iterator[Lab]:
    pytest.importorskip("ray")
    with no_ray_beside(alone=False):
        yield Lab(minicluster, tmp_path)


def attempt_dir(run: runs.Run) -> Path:
    return run.dir / "attempts" / "1"


def processes(run: runs.Run) -> dict[int, str]:
    """Everything of a run's first attempt that runs on this machine (both nodes): process id -> its command line."""
    folder = attempt_dir(run)
    script = folder / "nodes" / "node.sh"
    token = next(line for line in script.read_text().splitlines() if line.startswith("NX_TOKEN="))
    # Ray's agents write over their environment: the group tells whose they are.
    groups = {group for file in script.parent.glob("*.groups") for group in file.read_text().split()}
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            text = words + (entry / "environ").read_bytes()
            state, _, group = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue  # it has just ended
        if state != "Z" and (token.encode() in text or str(folder).encode() in text or group in groups):
            found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")
    return found


def the(run: runs.Run, *words: str, without: str = "\n") -> int:
    """The one process of a run whose command line has these words."""
    found = {p: c for p, c in processes(run).items() if all(w in c for w in words) and without not in c}
    assert found, f"no process with {words} of {sorted(c[:80] for c in processes(run).values())}"
    return min(found)


def stderr(run: runs.Run) -> str:
    return (attempt_dir(run) / "stderr.log").read_text()


def said(run: runs.Run) -> str:
    return (attempt_dir(run) / "attempt.log").read_text()


def assert_nothing_left(lab: Lab, run: runs.Run) -> None:
    deadline = time.monotonic() + limit(60)
    while left := processes(run):
        shown = {process: line[:150] for process, line in left.items()}
        assert time.monotonic() < deadline, f"still running: {shown}"
        time.sleep(0.2)


def training(run: runs.Run) -> bool:
    log = attempt_dir(run) / "stdout.log"
    return log.is_file() and "SETUP COMPLETE" in log.read_text()


def test_ray_comes_up_over_both_hosts_and_ends_with_the_driver(lab: Lab) -> None:
    lab.launch(*NODES)
    lab.wait_ended()
    run = lab.run()
    folder = attempt_dir(run)
    assert_executed_once(run)
    assert "Connected to existing Ray cluster: 16 GPUs, 2 nodes" in (folder / "stdout.log").read_text()
    assert sorted(p.name for p in (folder / "nodes").glob("*.log")) == ["mini1.log", "mini2.log"]
    phases = json.loads((folder / "phases.json").read_text())
    allocation = time.mktime(time.strptime(lab.scontrol(run)["StartTime"], "%Y-%m-%dT%H:%M:%S"))
    names = ("attempt", "step", "head_up", "all_joined", "driver")
    assert [phases[name] for name in names] == sorted(phases[name] for name in names)
    print("from the allocation's start, s:", {name: round(phases[name] - allocation, 1) for name in names})
    assert_nothing_left(lab, run)


def test_each_node_of_an_attempt_has_what_ray_sub_gives_it(lab: Lab) -> None:
    """All CPUs of a whole node in the step and in Ray, its threads and open files: docs/allocation.md, by a probe."""
    probe = "{ env; echo OPEN_FILES=$(ulimit -n); } >$NX_ATTEMPT/nodes/$NX_HOST.probe"
    lab.launch(*NODES, "site.allocation=node", f'site.node_setup=["{probe}"]')
    lab.wait_ended()
    run = lab.run()
    assert_executed_once(run)
    job = lab.scontrol(run)
    assert job["OverSubscribe"] == "NO", "the nodes alone"
    for host in ("mini1", "mini2"):
        lines = (attempt_dir(run) / "nodes" / f"{host}.probe").read_text().splitlines()
        has = dict(line.split("=", 1) for line in lines if "=" in line)
        cpus = re.search(r"CPUTot=(\d+)", lab.cluster.run("scontrol", "-o", "show", "node", host).stdout)
        assert cpus and {has["SLURM_CPUS_PER_TASK"], has["SLURM_CPUS_ON_NODE"], has["NX_CPUS"]} == {cpus[1]}
        assert has["OMP_NUM_THREADS"] == "16" and has["NRL_GPU_CPU_AFFINITY_FILE"].startswith(has["RAY_TMPDIR"])
        assert int(has["OPEN_FILES"]) == min(65535, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        assert has["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    assert_nothing_left(lab, run)


def test_a_node_that_does_not_join_is_named(lab: Lab) -> None:
    patience = round(paced(20))
    stuck = 'site.node_setup=["case $NX_HOST in mini2) echo waiting for a disk; sleep 3600;; esac"]'
    lab.launch(*NODES, stuck, f"engine.join_deadline_s={patience}")
    lab.wait_ended()
    run = lab.run()
    assert kinds(run) == ["failed"]
    end = json.loads((attempt_dir(run) / "end.json").read_text())
    print(f"ended {end['seconds']:.1f} s after the attempt's start, with a deadline of {patience} s")
    assert end["exit_code"] != 0 and end["why"].startswith(f"mini2 did not join Ray within {patience} s")
    for text in (said(run), stderr(run)):
        assert "mini2: waiting for a disk" in text and "engine.join_deadline_s" in text
    assert end["seconds"] < limit(300)  # the stuck node sleeps for an hour: it was not waited for
    assert_nothing_left(lab, run)


def test_a_port_in_use_is_named(lab: Lab) -> None:
    code = "import socket, time; s = socket.create_server(('', 9900)); time.sleep(600)"
    there = [TOOL, "exec", "--state", lab.cluster.state, "--on", "mini1", "--", sys.executable, "-c", code]
    listener = subprocess.Popen(there, start_new_session=True)
    try:
        lab.launch(*NODES)
        lab.wait_ended()
    finally:
        os.killpg(listener.pid, signal.SIGKILL)
        listener.wait()
    run = lab.run()
    end = json.loads((attempt_dir(run) / "end.json").read_text())
    print(f"ended {end['seconds']:.1f} s after the attempt's start")
    assert kinds(run) == ["failed"]
    assert end["why"].startswith("port 9900 of mini1")
    assert "engine.ports.gcs=9910" in said(run) and "engine.ports.gcs=9910" in stderr(run)
    assert_nothing_left(lab, run)


def kill_driver(run: runs.Run) -> int:
    return the(run, "run_grpo", "--config", without="srun")


def kill_raylet_of_mini2(run: runs.Run) -> int:
    address = (attempt_dir(run) / "nodes" / "mini2.log").read_text().split("Local node IP: ")[1].split()[0]
    return the(run, "/raylet/raylet", f"--node_ip_address={address}")


def kill_head(run: runs.Run) -> int:
    return the(run, "gcs_server")


def kill_member(run: runs.Run) -> int:
    return the(run, "ray_node.py join")


def kill_script_of_mini2(run: runs.Run) -> int:
    sleeping = [p for p, c in processes(run).items() if c.startswith("/usr/bin/sh ") and "srun" not in c]
    return max(sleeping, key=lambda p: environment(p)["SLURM_PROCID"])


def environment(process: int) -> dict[str, str]:
    pairs = Path(f"/proc/{process}/environ").read_text(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def kill_srun(run: runs.Run) -> int:
    return the(run, "srun ", "node.sh")


def kill_attempt(run: runs.Run) -> int:
    return int(json.loads((attempt_dir(run) / "owner.json").read_text())["pid"])


KILLED: dict[Callable[[runs.Run], int], str] = {
    kill_driver: "the driver on mini1 was killed by signal 9",
    kill_raylet_of_mini2: "Ray on mini2 ended",
    kill_head: "Ray's head on mini1 ended",
    kill_member: "Ray on mini2 ended (signal 9)",
    kill_script_of_mini2: "engine: exit code 137",
    kill_srun: "engine: killed by SIGKILL",
    kill_attempt: "",  # it cannot say anything; the run's state is what the next test of the store says: lost
}


def own_ports(i: int) -> str:
    """Ray looks for a free port, lets go of it and takes it again: two Rays on a node must not look in one range."""
    return f"engine.ports.workers=[{10002 + 100 * i},{10101 + 100 * i}]"


def launched(lab: Lab, i: int) -> runs.Run:
    lab.launch(*NODES, *SHARED, f"grpo.seed={i}", f"engine.ports.gcs={9900 + 10 * i}", own_ports(i))
    return lab.run(grpo__seed=i)


def test_sigkill_of_any_part_ends_all_and_names_it(lab: Lab, pytestconfig: pytest.Config) -> None:
    """Two runs at a time side by side on the same two nodes, each with a Ray of its own."""
    killed = list(KILLED) if pytestconfig.getoption("thorough") else [kill_driver, kill_raylet_of_mini2, kill_attempt]
    following = launched(lab, 0)
    for i, kill in enumerate(killed):
        run = following
        if i + 1 < len(killed):
            following = launched(lab, i + 1)
        for each in {run.id: run, following.id: following}.values():
            lab.wait_for(f"{each.id} to train", partial(training, each))
            text = (attempt_dir(each) / "stdout.log").read_text()
            assert "Connected to existing Ray cluster: 2 GPUs, 2 nodes" in text  # its own, and no other's
        began = time.monotonic()
        os.kill(kill(run), signal.SIGKILL)
        assert_nothing_left(lab, run)
        seconds = time.monotonic() - began
        if KILLED[kill]:
            lab.wait_ended(run)
            end = json.loads((attempt_dir(run) / "end.json").read_text())
            print(f"{kill.__name__}: nothing left after {seconds:.1f} s: {end['why']}")
            assert end["kind"] == "failed" and KILLED[kill] in end["why"]
        else:
            print(f"{kill.__name__}: nothing left after {seconds:.1f} s")
    lab.wait_queue_empty()
