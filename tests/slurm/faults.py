"""`make faults`: every fault injected on a real Slurm (slurm/minicluster), and what became of the runs.

    python tests/slurm/faults.py [NAME ...]     all of them, or those whose names contain a word

Each fault launches runs, does its harm, and waits until they are done. A run is lost when it is not done at the end,
and executed twice when it ended as done twice, has a step twice, or had two attempts at work at once. The engine is
the stand-in for NeMo RL (tests/standin) or the embedded one; the numbers of each run must equal those of a run that
nobody disturbed, and all attempts must have one W&B identity. Exit code 0 only when every run came through.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launching import HOLD, SITE, SMALL, Lab, at, engine_yaml, metrics, no_ray_beside, setting
from minicluster_tool import MiniCluster, brought_up
from pace import paced, slowness
from standin_caches import with_caches

from nano_exp import files
from nano_exp.launch import show
from nano_exp.store import runs

#: A run of six steps with a checkpoint after each; the same numbers whatever happens to it.
RUN = (*SMALL, "grpo.max_num_steps=6", "site.fence_s=3")
SLOW = setting("STEP_SECONDS", paced(1))
#: Works for some 40 s and then waits in its last step, so that it cannot be done before Slurm acts, however late Slurm
#: is (a time limit is looked at every 30 s). An attempt that resumes does not wait.
NOT_DONE_BEFORE = (
    setting("STEP_SECONDS", 8),
    setting("FAIL_AT_STEP", 6),
    setting("FAULT", "hang"),
    setting("FAIL_ONCE", 1),
)
#: The embedded engine on the nodes: real training, real W&B (offline).
EMBEDDED = (
    "model=nano_tiny",
    "cluster=1n1g",
    "site=minicluster",
    f"site.python={sys.executable}",
    "slurm.cpus_per_node=1",
    "grpo.num_prompts_per_step=2",
    "grpo.num_generations_per_prompt=4",
    "grpo.max_num_steps=40",
    "grpo.val_period=0",
    "grpo.val_at_start=false",
    "grpo.val_at_end=false",
    "checkpointing.save_period=5",
    "engine.warm_start.steps=2",
    "engine.device=cpu",
)

# --- what became of runs --------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """One fault's line. `problems` is empty when all went well."""

    fault: str
    runs: int = 0
    lost: int = 0
    twice: int = 0
    attempts: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def lost(run: runs.Run) -> bool:
    """Whether a run has no attempt that ended as done."""
    return not any(a.end and a.end.get("kind") == "done" for a in runs.attempts(run.dir))


def executed_twice(run: runs.Run) -> str:
    """How a run was executed more than once, or nothing."""
    events = runs.load(run.dir).events
    dones = [e for e in events if e.kind == "end" and e.data["end"]["kind"] == "done"]
    if len(dones) > 1:
        return f"{len(dones)} attempts ended as done"
    steps = [row["step"] for row in metrics(run) if "train/reward" in row]
    if len(steps) != len(set(steps)):
        return f"steps logged twice: {sorted({s for s in steps if steps.count(s) > 1})}"
    began = {e.data["attempt"]: e.time for e in events if e.kind == "engine"}
    ended = {e.data["end"]["attempt"]: e.time for e in events if e.kind == "end"}
    for number, moment in ended.items():
        if began.get(number + 1, moment) < moment:
            return f"attempt {number + 1} began before attempt {number} had ended"
    if sum(e.kind == "start" for e in events) != len({a.number for a in runs.attempts(run.dir)}):
        return "an attempt was started twice"
    return ""


def wandb_identities(run: runs.Run) -> set[str]:
    """The W&B ids that the run's attempts were given, and those that wandb really wrote."""
    given = {str(at(engine_yaml(run, a.number), "logger.wandb.id")) for a in runs.attempts(run.dir) if _began(a)}
    written = {m[1] for p in run.dir.rglob("run-*.wandb") if (m := re.fullmatch(r"run-(.+)\.wandb", p.name))}
    return given | written


def _began(attempt: runs.Attempt) -> bool:
    return (attempt.dir / "nemo_rl.yaml").is_file()


def judge(outcome: Outcome, found: Iterable[runs.Run], expected: int, reference: dict[str, Any]) -> None:
    """Fill in an outcome from the store.

    Parameters
    ----------
    expected: how many runs there must be
    reference: `key(run)` -> the metrics of an undisturbed run of the same config
    """
    for run in found:
        outcome.runs += 1
        outcome.attempts += len(runs.attempts(run.dir))
        if lost(run):
            outcome.lost += 1
            outcome.problems.append(f"{run.id} is not done")
            continue
        if how := executed_twice(run):
            outcome.twice += 1
            outcome.problems.append(f"{run.id}: {how}")
        if metrics(run) != reference[run.id]:
            outcome.problems.append(f"{run.id}: its numbers are not those of an undisturbed run")
        if len(ids := wandb_identities(run)) != 1:
            outcome.problems.append(f"{run.id}: W&B ids {sorted(ids)}")
    if outcome.runs != expected:
        outcome.lost += max(0, expected - outcome.runs)
        outcome.problems.append(f"{outcome.runs} runs, and {expected} were launched")


# --- the faults -----------------------------------------------------------------------------------------------------

Inject = Callable[[Lab], None]


@dataclass(frozen=True)
class Fault:
    """`cluster`: faults of one cluster's name run side by side; those of a cluster of their own harm all of it."""

    name: str
    cluster: str
    inject: Inject
    runs: int = 1
    wish: tuple[str, ...] = RUN


FAULTS: list[Fault] = []


def fault(name: str, cluster: str = "shared", runs: int = 1, wish: tuple[str, ...] = RUN) -> Callable[[Inject], Inject]:
    def register(inject: Inject) -> Inject:
        FAULTS.append(Fault(name, cluster, inject, runs, wish))
        return inject

    return register


def wait_done(lab: Lab, seconds: float = 240) -> None:
    lab.wait_for("every run is done", lambda: lab.runs() and not any(lost(run) for run in lab.runs()), seconds)
    lab.wait_queue_empty()


def event(run: runs.Run, kind: str, attempt: int = 1) -> dict[str, Any]:
    """The data of a run's event of this kind and attempt."""
    found = [e.data for e in runs.load(run.dir).events if e.kind == kind and e.data.get("attempt") == attempt]
    assert found, f"{run.id} has no {kind} of attempt {attempt}"
    return dict(found[-1])


def end(run: runs.Run, attempt: int = 1) -> dict[str, Any]:
    found = runs.attempts(run.dir)[attempt - 1].end
    assert found is not None, f"attempt {attempt} of {run.id} has no end"
    return dict(found)


@fault("time limit, saved before it")
def time_limit(lab: Lab) -> None:
    """An allocation of a minute, half of which is for training; the run needs more."""
    lab.launch(*RUN, "hydra.launcher.timeout_min=1", setting("STEP_SECONDS", 7))
    wait_done(lab)
    (run,) = lab.runs()
    assert end(run)["kind"] == "stopped" and event(run, "requeue")["by"] == "attempt"


@fault("time limit, killed at it")
def hard_time_limit(lab: Lab) -> None:
    """A deadline that somebody set too late: Slurm ends the job, and the last checkpoint is what is left."""
    late = "++checkpointing.checkpoint_must_save_by=01:00:00:00"
    lab.launch(*RUN, "hydra.launcher.timeout_min=1", late, *NOT_DONE_BEFORE)
    wait_done(lab)
    (run,) = lab.runs()
    assert end(run)["stopped"] == "time_limit", end(run)


@fault("scontrol requeue, embedded engine", wish=EMBEDDED)
def requeue(lab: Lab) -> None:
    lab.launch(*EMBEDDED)
    (run,) = lab.runs()
    lab.wait_step(run, 10)
    lab.cluster.run("scontrol", "requeue", lab.job(run))
    wait_done(lab)
    assert end(run)["stopped"] == "slurm", end(run)


@fault("preemption by a higher partition", "preempted")
def preemption(lab: Lab) -> None:
    lab.launch(*RUN, SLOW)
    (run,) = lab.runs()
    lab.wait_step(run, 2)
    lab.cluster.sbatch("-p", "urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap=sleep 2")
    wait_done(lab)
    assert end(run)["stopped"] == "slurm", end(run)


@fault("node's network link cut", "cut")
def link_cut(lab: Lab) -> None:
    """The engine goes on over there, unaware, while Slurm starts the run again on the other node."""
    lab.launch(*RUN, *NOT_DONE_BEFORE)
    (run,) = lab.runs()
    lab.wait_step(run, 1)
    node = host(run)
    lab.cluster.tool("node-down", node)
    try:
        lab.wait_for("the next attempt", lambda: len(runs.attempts(run.dir)) == 2)
        wait_done(lab)
    finally:
        lab.cluster.tool("node-up", node)
    assert host(run, 2) != node
    assert event(run, "lost")["diagnosis"]["fault"] == "infrastructure"
    said = (run.dir / "attempts" / "1" / "attempt.log").read_text()
    assert "attempt 2 has begun; this one was taken for dead" in said, said


@fault("slurmd killed", "slurmd")
def slurmd_killed(lab: Lab) -> None:
    """The node's daemon is gone and its job goes on, until Slurm gives the node up."""
    lab.launch(*RUN, *NOT_DONE_BEFORE)
    (run,) = lab.runs()
    lab.wait_step(run, 1)
    node = host(run)
    lab.cluster.tool("kill", f"slurmd:{node}")
    try:
        wait_done(lab)
    finally:
        lab.cluster.tool("start", f"slurmd:{node}")
    assert len(runs.attempts(run.dir)) == 2


def host(run: runs.Run, attempt: int = 1) -> str:
    owner = runs.attempts(run.dir)[attempt - 1].owner
    assert owner is not None
    return owner.host


@fault("driver SIGKILLed")
def driver_killed(lab: Lab) -> None:
    lab.launch(*RUN, SLOW)
    (run,) = lab.runs()
    lab.wait_step(run, 2)
    kill_processes(str(run.dir / "attempts" / "1" / "nemo_rl.yaml"))
    wait_done(lab)
    assert end(run)["diagnosis"]["cause"] == "killed", end(run)
    assert event(run, "requeue")["by"] == "attempt"


def kill_processes(word: str, *more: str) -> None:
    """SIGKILL to the processes of this machine, the nodes' too, that have these arguments."""
    killed = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has just ended
        if all(any(each in w for w in words) for each in (word, *more)):
            os.kill(int(folder.name), signal.SIGKILL)
            killed += 1
    assert killed, f"no process with {word} {' '.join(more)}"


RAY = (
    "model=nano_12b",
    "cluster=2n8g",
    *SITE,
    "grpo.max_num_steps=6",
    "checkpointing.save_period=1",
    "cluster.gpus_per_node=1",
    "slurm.cpus_per_node=1",
    "ignore=[cpus_for_ray,host_memory_fits]",
    "engine.dashboard=false",
    setting("RAY", 1),
)


@fault("Ray worker killed, two nodes", wish=RAY)
def ray_worker(lab: Lab) -> None:
    """The second node's raylet: without it the run cannot go on, and both nodes end."""
    with no_ray_beside(alone=False):
        kill_second_raylet(lab)


def kill_second_raylet(lab: Lab) -> None:
    lab.launch(*RAY, SLOW)
    (run,) = lab.runs()
    lab.wait_step(run, 2)
    address = (run.dir / "attempts" / "1" / "nodes" / "head").read_text().split()[0]
    head = address.partition(":")[0]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        ours = f"--gcs-address={address}" in words and Path(words[0]).name == "raylet"
        if ours and f"--node_ip_address={head}" not in words:
            os.kill(int(folder.name), signal.SIGKILL)
    wait_done(lab)
    assert end(run)["diagnosis"]["cause"] == "ray_node_lost", end(run)


@fault("controller down during the run", "controller")
def controller_down_during(lab: Lab) -> None:
    """It is away when the run must be started again: the attempt asks until it answers."""
    lab.launch(*RUN, "hydra.launcher.timeout_min=1", setting("STEP_SECONDS", 7))
    (run,) = lab.runs()
    lab.wait_step(run, 1)
    lab.cluster.wait_until_saved(lab.job(run))
    lab.cluster.tool("kill", "slurmctld")
    try:
        lab.wait_for("its end", lambda: runs.attempts(run.dir)[0].end)
        lab.wait_for("a question", lambda: "asking again" in files.tail(run.dir / "attempts" / "1" / "attempt.log"))
    finally:
        lab.cluster.tool("start", "slurmctld")
    wait_done(lab)
    assert end(run)["kind"] == "stopped"


@fault("controller down at submit", "controller")
def controller_down_at_submit(lab: Lab) -> None:
    lab.cluster.tool("kill", "slurmctld")
    try:
        said = lab.launch(*RUN, code=4).text
        assert "Unable to contact slurm controller" in said and "nothing was queued" in said, said
        assert lab.runs() == [] and lab.launches() == []
    finally:
        lab.cluster.tool("start", "slurmctld")
    lab.launch(*RUN)
    wait_done(lab)


@fault("no accounting database", "unaccounted")
def no_accounting(lab: Lab) -> None:
    """sacct fails. A run is requeued, another is killed without an error message, and both go on."""
    lab.launch(*RUN, SLOW)
    (run,) = lab.runs()
    lab.wait_step(run, 2)
    attempt = runs.attempts(run.dir)[0].owner
    assert attempt is not None
    os.kill(attempt.pid, signal.SIGKILL)
    lab.wait_queue_empty()
    assert lab.status()[run.id]["state"] == "lost"
    lab.launch(*RUN)
    wait_done(lab)
    assert event(run, "lost")["diagnosis"]["cause"] == "killed"


@fault("results disk full", "disk")
def disk_full(lab: Lab) -> None:
    """The disk of the results fills up while the run trains; with room again, the same command goes on."""
    disk = lab.cluster.state / "scratch" / "results"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    try:
        lab.results.symlink_to(disk)
        where = f"run.results={disk}"
        lab.launch(*RUN, where, SLOW)
        (run,) = lab.runs()
        lab.wait_step(run, 2)
        fill(disk / "ballast")
        lab.wait_queue_empty()
        kept = {path: path.read_bytes() for path in run.dir.glob("checkpoints/step_[12]/**/*") if path.is_file()}
        assert kept, "what was written before the disk was full"
        for path in run.dir.glob("checkpoints/step_*/**/*.json"):
            files.read_json(path)
        row = lab.status(run.id)[run.id]
        assert row["state"] in ("failed", "lost"), row
        (disk / "ballast").unlink()
        lab.launch(*RUN, where)
        wait_done(lab)
        assert all(path.read_bytes() == content for path, content in kept.items() if path.exists())
        told = [e.data for e in runs.load(run.dir).events if e.kind in ("end", "lost")]
        causes = {(d.get("end") or d).get("diagnosis", {}).get("cause") for d in told}
        assert "disk_full" in causes, told
    finally:  # the disk goes; what is on it is judged afterwards
        (disk / "ballast").unlink(missing_ok=True)
        lab.results.unlink()
        shutil.copytree(disk, lab.results, symlinks=True)
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            for size in (65536, 4096, 1):
                while True:
                    try:
                        file.write(b"\0" * size)
                    except OSError:
                        if size == 1:
                            raise
                        break
        except OSError:
            return


#: Is sbatch, keeps its answer to itself and hangs until it is killed.
SILENT = '$REAL "$@" >/dev/null; touch "{0}/began"; exec sleep 60'


@fault("launcher SIGKILLed before, during and after sbatch", runs=2)
def launcher_killed(lab: Lab) -> None:
    wish = (*RUN, "grpo.seed=42,43")
    lab.kill_at("os.rename manifest.json", *wish)
    lab.kill_at("subprocess.Popen array-0.sbatch", *wish)
    launcher = lab.start(*wish, HOLD, **lab.with_command("sbatch", SILENT.format(lab.folder)))
    lab.wait_for("sbatch is called", (lab.folder / "began").exists)
    launcher.process.kill()
    launcher.said(-signal.SIGKILL)
    assert "nothing to submit" in lab.launch(*wish).text
    (array,) = {line.split("_")[0].split()[0] for line in lab.queued()}
    lab.cluster.run("scontrol", "release", array)
    wait_done(lab)
    assert "nothing to submit" in lab.launch(*wish).text


@fault("two launchers at once", runs=2)
def two_launchers(lab: Lab) -> None:
    wish = (*RUN, "grpo.seed=42,43")
    texts = [launcher.said().text for launcher in [lab.start(*wish), lab.start(*wish)]]
    assert sorted("2 to submit" in text for text in texts) == [False, True], texts
    wait_done(lab)


@fault("damaged event and run files", runs=2)
def damage(lab: Lab) -> None:
    """A damaged event of a run that waits; the run file of one that is done. Each harms its own row alone."""
    lab.launch(*RUN, "grpo.seed=42,43", HOLD)
    first, second = sorted(lab.runs(), key=lambda run: at(run.config(), "grpo.seed"))
    noted = next((first.dir / "events").glob("*-submit-*.json"))
    copy = noted.with_name(noted.name.replace("submit", "note"))
    copy.write_text('{"time": 1')
    table = lab.status()
    assert any("is not JSON" in text for text in table[first.id]["damaged"]), table
    assert table[second.id]["damaged"] == [] and table[second.id]["state"] == "pending"
    lab.cluster.run("scontrol", "release", lab.job(first).partition("_")[0])
    wait_done(lab)
    record = second.dir / "run.json"
    whole = record.read_text()
    record.write_text(whole[:40])
    table = lab.status()
    assert (table[second.id]["state"], table[first.id]["state"]) == ("damaged", "done"), table
    assert "damaged" in lab.launch(*RUN, "grpo.seed=42,43", code=3).text
    record.write_text(whole)
    assert "nothing to submit" in lab.launch(*RUN, "grpo.seed=42,43").text


@fault("job cancelled while pending")
def cancelled_pending(lab: Lab) -> None:
    lab.launch(*RUN, HOLD)
    (run,) = lab.runs()
    lab.cluster.run("scancel", lab.job(run))
    lab.wait_queue_empty()
    assert lab.status()[run.id]["state"] == "unstarted"
    lab.launch(*RUN)
    wait_done(lab)


# --- all of them ----------------------------------------------------------------------------------------------------

#: The flags of each cluster. Those that one fault harms do without a database where nothing hangs on it: it is slow to
#: make; node loss is told with accounting.
FLAGS = {"shared": ("--fast",), "cut": ("--fast",), "own": ("--fast", "--no-accounting")}
#: Faults that run side by side on the shared cluster of a fast machine.
AT_ONCE = 4


def undisturbed(cluster: MiniCluster, folder: Path) -> dict[str, Any]:
    """Run id -> metrics of each config that the faults use, launched once and left alone."""
    lab = Lab(cluster, folder)
    try:
        other_ports = "engine.ports={gcs: 9920, client: 9921, dashboard: 8275, workers: [11001, 12000]}"
        for wish in ((*RUN, "grpo.seed=42,43"), EMBEDDED, (*RAY, other_ports)):  # one after the other: two are heavy
            with no_ray_beside(alone=False) if wish[: len(RAY)] == RAY else nullcontext():
                lab.launch(*wish)
                wait_done(lab)
        return {run.id: metrics(run) for run in lab.runs()}
    finally:
        lab.close()


def execute(one: Fault, cluster: MiniCluster, folder: Path) -> tuple[Outcome, Lab]:
    """Inject one fault. What it asserts, and what breaks, becomes a problem of its outcome."""
    outcome, began, lab = Outcome(one.name), time.monotonic(), Lab(cluster, folder)
    try:
        one.inject(lab)
    except BaseException as error:  # pytest's failures are no Exceptions
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome.problems.append(
            f"{type(error).__name__} in line {where.lineno} of {Path(where.filename).name}: {error}"
        )
        print(f"==== {one.name}\n{lab.report()}", file=sys.stderr)
    finally:
        lab.close()
    outcome.seconds = time.monotonic() - began
    return outcome, lab


def main(words: list[str]) -> int:
    chosen = [f for f in FAULTS if not words or any(word in f.name for word in words)]
    if not chosen:
        print(f"no fault of that name; there are: {', '.join(f.name for f in FAULTS)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    with_caches()
    outcomes: dict[str, Outcome] = {}
    labs: list[tuple[Fault, Outcome, Lab]] = []
    lock = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="nano-exp-faults-") as temporary, ExitStack() as stack:
        root = Path(temporary)
        shared = stack.enter_context(brought_up(*FLAGS["shared"]))
        with ThreadPoolExecutor(max(2, round(AT_ONCE / slowness()))) as side, ThreadPoolExecutor(2) as own:

            def note(one: Fault, outcome: Outcome, lab: Lab) -> None:
                with lock:
                    labs.append((one, outcome, lab))
                    print(f"  {len(labs)}/{len(chosen)}  {one.name}: {outcome.seconds:.0f} s", flush=True)

            def on_shared(one: Fault, number: int) -> None:
                note(one, *execute(one, shared, root / f"{number}"))

            def on_own(name: str, members: list[tuple[int, Fault]]) -> None:
                with brought_up(*FLAGS.get(name, FLAGS["own"])) as cluster:
                    for number, one in members:
                        note(one, *execute(one, cluster, root / f"{number}"))

            reference = side.submit(undisturbed, shared, root / "undisturbed")
            waiting = []
            for number, one in enumerate(chosen):
                if one.cluster == "shared":
                    waiting.append(side.submit(on_shared, one, number))
            for name in dict.fromkeys(f.cluster for f in chosen if f.cluster != "shared"):
                members = [(n, f) for n, f in enumerate(chosen) if f.cluster == name]
                waiting.append(own.submit(on_own, name, members))
            for each in waiting:
                each.result()
            numbers = reference.result()
        for one, outcome, lab in labs:
            judge(outcome, lab.runs(), one.runs, numbers)
            outcomes[one.name] = outcome
    return report([outcomes[f.name] for f in chosen], time.monotonic() - began)


def report(outcomes: list[Outcome], seconds: float) -> int:
    """The table and its sum; the exit code."""
    cells = [
        (
            o.fault,
            o.runs,
            o.lost,
            o.twice,
            o.attempts,
            f"{o.seconds:.0f}",
            "" if not o.problems else "NOT AS IT SHOULD BE",
        )
        for o in outcomes
    ]
    print(show.table(("fault", "runs", "lost", "executed twice", "attempts", "seconds", ""), cells, indent=""))
    for outcome in outcomes:
        for problem in outcome.problems:
            print(f"{outcome.fault}: {problem}")
    gone, twice = sum(o.lost for o in outcomes), sum(o.twice for o in outcomes)
    wrong = sum(bool(o.problems) for o in outcomes)
    print(
        f"\n{len(outcomes)} faults, {sum(o.runs for o in outcomes)} runs: {gone} lost, {twice} executed twice, "
        f"{wrong} faults not as they should be; {seconds:.0f} s"
    )
    return 1 if gone or twice or wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
