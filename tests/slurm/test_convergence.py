"""Launching again converges on a real Slurm: no run is lost, none executes twice, whatever was killed in between."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from launching import (
    HOLD,
    SMALL,
    Lab,
    assert_executed_once,
    at,
    checkpoints,
    engine_yaml,
    kinds,
    metrics,
    opened,
    setting,
    train_steps,
)
from minicluster_tool import MiniCluster
from pace import paced

from nano_exp import files
from nano_exp.store import runs

pytestmark = pytest.mark.slurm


@pytest.fixture
def other(minicluster: MiniCluster, tmp_path: Path) -> Iterator[Lab]:
    """A second folder, for the run that nobody disturbs."""
    with opened(minicluster, tmp_path / "other") as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def short_allocation(minicluster: MiniCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A run in an allocation of one minute that needs two. It goes on beside the other tests; the last one looks."""
    with opened(minicluster, tmp_path_factory.mktemp("short")) as made:
        made.launch(
            *SMALL,
            "grpo.max_num_steps=120",
            "checkpointing.save_period=1000",
            "hydra.launcher.timeout_min=1",
            "slurm.requeue=false",
            setting("STEP_SECONDS", 1),
            setting("STEPS_PER_EPOCH", 200),
        )
        yield made


@pytest.fixture(scope="module", autouse=True)
def killed(minicluster: MiniCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Future[None]]]:
    """`kill_again_and_again`, beside the other tests: it is the longest, and each of them waits for Slurm a lot."""
    with opened(minicluster, tmp_path_factory.mktemp("killed")) as made, ThreadPoolExecutor(1) as pool:
        yield made, pool.submit(kill_again_and_again, made)


def submits(run: runs.Run) -> int:
    return sum(event.kind == "submit" for event in runs.load(run.dir).events)


# --- the difference -------------------------------------------------------------------------------------------------


def test_launching_again_submits_the_difference_only(lab: Lab) -> None:
    started = [
        lab.start(*SMALL, "grpo.seed=1"),
        lab.start(*SMALL, "grpo.seed=2", setting("FAIL_AT_STEP", 2), setting("FAIL_ONCE", 1)),
        lab.start(*SMALL, "grpo.seed=3", setting("STEP_SECONDS", 120)),
        lab.start(*SMALL, "grpo.seed=4", HOLD),
    ]
    for launcher in started:
        launcher.said()
    done, failed, running, held = (lab.run(grpo__seed=seed) for seed in (1, 2, 3, 4))
    lab.wait_ended(done, failed)
    lab.wait_for("a start", lambda: runs.attempts(running.dir))
    states = {run: row["state"] for run, row in lab.status().items()}
    assert states == {done.id: "done", failed.id: "failed", running.id: "running", held.id: "pending"}

    said = lab.launch(*SMALL, "grpo.seed=1,2,3,4,5").text
    assert "5 runs" in said and "2 to submit" in said
    new = lab.run(grpo__seed=5)
    assert [submits(run) for run in (done, failed, running, held, new)] == [1, 2, 1, 1, 1]
    assert {lab.job(failed).split("_")[1], lab.job(new).split("_")[1]} == {"0", "1"}  # one array
    lab.wait_ended(failed, attempt=2)
    lab.wait_ended(new)
    assert_executed_once(new)
    assert_executed_once(done)
    assert kinds(failed) == ["failed", "done"]
    assert train_steps(failed) == [1, 2, 3]
    resumed = (failed.dir / "attempts" / "2" / "stdout.log").read_text()
    assert "Step 2/3" in resumed and "Step 1/3" not in resumed

    said = lab.launch(*SMALL, "grpo.seed=1,2,3,4,5", "fresh=true", code=2).text
    assert "fresh=true, but 2 of the runs are active" in said
    for run in (running, held):
        lab.cluster.run("scancel", lab.job(run))
    lab.launch(*SMALL, "grpo.seed=1", "fresh=true")
    again = runs.load(done.dir.with_name(f"{done.id}-2"))
    lab.wait_ended(again)
    assert_executed_once(again)
    assert_executed_once(done)
    assert metrics(again) == metrics(done)


def test_cancelled_and_timed_out_runs_go_on_with_the_numbers_of_an_undisturbed_one(lab: Lab, other: Lab) -> None:
    longer = (*SMALL, "grpo.max_num_steps=6", "grpo.val_period=2", "checkpointing.save_period=2", "slurm.requeue=false")
    slow, soon = setting("STEP_SECONDS", paced(0.5)), f"00:00:00:{round(paced(2)):02}"
    started = [
        lab.start(*longer, "grpo.seed=1", slow),
        lab.start(*longer, "grpo.seed=2", HOLD),
        lab.start(*longer, "grpo.seed=3", slow, f"++checkpointing.checkpoint_must_save_by={soon}"),
        other.start(*longer, "grpo.seed=1,2,3"),
    ]
    for launcher in started:
        launcher.said()
    cancelled, waiting, timed_out = (lab.run(grpo__seed=seed) for seed in (1, 2, 3))
    lab.wait_for("a step after the checkpoint", lambda: 3 in train_steps(cancelled))  # it will run again
    lab.cluster.run("scancel", lab.job(cancelled), lab.job(waiting))
    lab.wait_ended(cancelled, timed_out)
    lab.wait_queue_empty()
    table = lab.status()
    assert [table[run.id]["state"] for run in (cancelled, waiting, timed_out)] == ["cancelled", "unstarted", "stopped"]
    assert "scancel; SIGTERM; checkpoint of step" in table[cancelled.id]["why"]
    assert re.search("saved before the time limit; checkpoint of step [1-5] of 6", table[timed_out.id]["why"])
    assert checkpoints(cancelled)[-1] in (2, 4)

    assert "3 to submit" in lab.launch(*longer, "grpo.seed=1,2,3").text
    lab.wait_ended(cancelled, timed_out, attempt=2)
    lab.wait_ended(waiting)
    assert (kinds(cancelled), kinds(timed_out)) == (["cancelled", "done"], ["stopped", "done"])
    assert_executed_once(waiting, steps=6)
    other.wait_ended()
    for seed in (1, 2, 3):
        whole = other.run(grpo__seed=seed)
        assert_executed_once(whole, steps=6)
        assert metrics(lab.run(grpo__seed=seed)) == metrics(whole)
        assert any("validation/accuracy" in row for row in metrics(whole))


def test_a_requeued_job_is_the_next_attempt_of_the_same_run(lab: Lab, other: Lab) -> None:
    longer = (*SMALL, "grpo.max_num_steps=5", "grpo.seed=1,2")
    undisturbed = other.start(*longer)
    lab.launch(*longer, setting("STEP_SECONDS", paced(1)))
    run, sibling = lab.run(grpo__seed=1), lab.run(grpo__seed=2)
    job = lab.job(run)
    lab.wait_step(run, 2)
    lab.cluster.run("scontrol", "requeue", job)
    lab.wait_for("the requeued job waits", lambda: f"{job} PENDING" in " ".join(lab.queued()))
    assert lab.status()[run.id]["state"] == "pending"
    assert "nothing to submit" in lab.launch(*longer).text
    lab.wait_ended(run, attempt=2)
    undisturbed.said()
    other.wait_ended()

    assert kinds(run) == ["stopped", "done"]
    first, second = runs.attempts(run.dir)
    assert first.owner is not None and second.owner is not None
    assert [(a.job, a.restart) for a in (first.owner, second.owner)] == [(job, 0), (job, 1)]
    assert "Step 1/5" not in (second.dir / "stdout.log").read_text()
    assert submits(run) == 1
    assert metrics(run) == metrics(other.run(grpo__seed=1))
    lab.wait_ended(sibling)
    assert_executed_once(sibling, steps=5)
    assert lab.status()[run.id]["attempt"] == 2


def test_an_attempt_that_is_killed_leaves_no_engine_and_its_run_goes_on(lab: Lab, other: Lab) -> None:
    """Two of them: one run is launched again, the job of the other is requeued by hand after its end."""
    longer = (*SMALL, "grpo.max_num_steps=5", "grpo.seed=1,2")
    undisturbed = other.start(*longer)
    lab.launch(*longer, setting("STEP_SECONDS", paced(1)))
    launched, requeued = lab.run(grpo__seed=1), lab.run(grpo__seed=2)
    for run in (launched, requeued):
        # Right after the step's results are printed, before the attempt has read them: the next one has to.
        said = run.dir / "attempts" / "1" / "stdout.log"
        lab.wait_for("step 1 is reported", lambda log=said: log.exists() and "Performance Metrics" in log.read_text())
        owner = runs.attempts(run.dir)[0].owner
        assert owner is not None
        os.kill(owner.pid, signal.SIGKILL)
    lab.wait_queue_empty()
    assert {row["state"] for row in lab.status().values()} == {"lost"}
    assert engines_of(launched) == engines_of(requeued) == []
    job = lab.job(requeued)
    lab.cluster.run("scontrol", "requeue", job)
    assert "1 to submit" in lab.launch(*longer).text
    lab.wait_ended(launched, requeued, attempt=2)
    undisturbed.said()
    other.wait_ended()
    for run in (launched, requeued):
        assert kinds(run) == ["done"]
        assert [a.number for a in runs.attempts(run.dir)] == [1, 2]
        assert metrics(run) == metrics(other.run(grpo__seed=at(run.config(), "grpo.seed")))
    assert [a.owner and (a.owner.job, a.owner.restart) for a in runs.attempts(requeued.dir)] == [(job, 0), (job, 1)]


def engines_of(run: runs.Run) -> list[int]:
    """Processes of this machine (the nodes' too) that train this run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has just ended
        if "--config" in words and any(word.startswith(f"{run.dir}/attempts/") for word in words):
            found.append(int(folder.name))
    return found


# --- the launcher dies ----------------------------------------------------------------------------------------------

#: What the launcher is about to do when it is killed, in the order of a launch of four runs in two arrays.
INSTANTS = (
    "open run.json",  # of the first run, in its staging folder
    "os.rename results/nano_12b/r",  # the first run's folder
    "os.rename manifest.json",
    "os.rename results/.launches/2",  # the launch's folder
    "os.rename -submit-",  # the first intent
    "subprocess.Popen array-0.sbatch",
)


def kill_again_and_again(lab: Lab) -> None:
    """Launch the same sweep in one folder, killed before sbatch, between sbatch and the record, between two arrays."""
    wish = (*SMALL, "grpo.seed=1,2", "cluster.gpus_per_node=1,2", HOLD)
    for instant in INSTANTS:
        lab.kill_at(instant, *wish)
        assert lab.queued() == [], instant
    lab.kill_at("os.rename job-0.json", *wish)  # sbatch of the first array has answered
    assert len(lab.queued()) == 1
    lab.kill_at("subprocess.Popen array-0.sbatch", *wish)  # the second array, alone in this launch
    assert len(lab.queued()) == 1
    lab.kill_at("os.rename job-0.json", *wish)
    arrays = lab.queued()
    assert len(arrays) == 2
    assert "nothing to submit" in lab.launch(*wish).text
    assert lab.queued() == arrays
    table = lab.status()
    assert {row["state"] for row in table.values()} == {"pending"} and len(table) == 4
    lab.cluster.run("scontrol", "release", *(line.split("_")[0] for line in arrays))
    lab.wait_ended()


def test_a_launcher_killed_at_any_instant_loses_nothing(killed: tuple[Lab, Future[None]]) -> None:
    lab, killing = killed
    killing.result()
    assert len(lab.runs()) == 4
    for run in lab.runs():
        assert_executed_once(run)


#: Waits for the file `go` (5 minutes at most), then is sbatch: an sbatch that outlives the launcher that was killed.
LATE = 'touch "{0}/began"; for i in $(seq 3000); do [ -e "{0}/go" ] && exec $REAL "$@"; sleep 0.1; done; exit 1'
#: Is sbatch, keeps its answer to itself and hangs until the file `go` is there.
SILENT = '$REAL "$@" >"{0}/answer"; touch "{0}/began"; for i in $(seq 3000); do [ -e "{0}/go" ] && exit; sleep .1; done'
#: Is sbatch, and its answer is lost.
LOST = '$REAL "$@" >/dev/null; echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1'


def killed_in_sbatch(lab: Lab, script: str, *overrides: str) -> None:
    """A launch that is SIGKILLed while its sbatch is this script; the script lives on."""
    launcher = lab.start(*overrides, **lab.with_command("sbatch", script.format(lab.folder)))
    lab.wait_for("sbatch is called", (lab.folder / "began").exists)
    launcher.process.kill()
    launcher.said(-signal.SIGKILL)


def test_an_sbatch_that_outlives_its_launcher_executes_nothing_twice(lab: Lab) -> None:
    wish = (*SMALL, "grpo.seed=1,2")
    killed_in_sbatch(lab, LATE, *wish)
    assert lab.queued() == []
    assert {row["state"] for row in lab.status().values()} == {"unstarted"}
    assert "2 to submit" in lab.launch(*wish).text
    lab.wait_ended()
    (lab.folder / "go").touch()
    late, _ = lab.launches()
    lab.wait_for("the late array's two tasks", lambda: len(list((late / "slurm").iterdir())) == 2)
    lab.wait_queue_empty()
    for log in (late / "slurm").iterdir():
        assert "is done; nothing to do" in log.read_text()
    for run in lab.runs():
        assert_executed_once(run)


def test_a_job_whose_number_was_never_recorded_is_found_by_its_name(lab: Lab) -> None:
    wish = (*SMALL, "grpo.seed=1,2")
    killed_in_sbatch(lab, SILENT, *wish, HOLD)
    array = (lab.folder / "answer").read_text().strip()
    (lab.folder / "go").touch()
    assert list(lab.launches()[0].glob("job-*.json")) == []
    assert {row["job"] for row in lab.status().values()} == {f"{array}_0", f"{array}_1"}
    assert "nothing to submit" in lab.launch(*wish).text
    assert len(lab.queued()) == 1
    lab.cluster.run("scontrol", "release", array)
    lab.wait_ended()
    for run in lab.runs():
        assert_executed_once(run)
    assert {row["state"] for row in lab.status().values()} == {"done"}
    assert "nothing to submit" in lab.launch(*wish).text


def test_a_lost_answer_of_sbatch_is_said_and_found_out_by_the_next_launch(lab: Lab) -> None:
    said = lab.launch(*SMALL, HOLD, code=4, **lab.with_command("sbatch", LOST)).text
    assert "Socket timed out" in said and "may or may not have been queued" in said
    assert len(lab.queued()) == 1
    assert "nothing to submit" in lab.launch(*SMALL).text
    lab.cluster.run("scontrol", "release", lab.queued()[0].split()[0])
    lab.wait_ended()
    assert_executed_once(lab.run())


# --- two at once ----------------------------------------------------------------------------------------------------


def test_two_launchers_at_once_submit_each_run_once(lab: Lab) -> None:
    wish = (*SMALL, "grpo.seed=1,2,3", HOLD)
    launchers = [lab.start(*wish), lab.start(*wish)]
    texts = [launcher.said().text for launcher in launchers]
    assert sorted("3 to submit" in text for text in texts) == [False, True], texts
    assert sum("nothing to submit" in text for text in texts) == 1, texts
    arrays = lab.queued()
    assert len(arrays) == 1
    lab.cluster.run("scontrol", "release", arrays[0].split("_")[0])
    lab.wait_ended()
    for run in lab.runs():
        assert submits(run) == 1
        assert_executed_once(run)


def test_of_several_jobs_for_one_run_one_executes_it(lab: Lab) -> None:
    """The batch script sent by hand again: while the run is pending, while it runs, and when it is done."""
    lab.launch(*SMALL, HOLD, setting("STEP_SECONDS", paced(4)))
    run = lab.run()
    script = str(lab.launches()[0] / "array-0.sbatch")
    log = run.results / runs.LAUNCHES / run.record["launch"] / "slurm"
    at_once = [lab.job(run), *(lab.cluster.sbatch(script) for _ in range(3))]
    lab.cluster.run("scontrol", "release", *at_once)
    lab.wait_step(run, 1)
    during = lab.cluster.sbatch(script)
    lab.cluster.run("scontrol", "release", during)
    refused = [job for job in (*at_once, during) if job != executing(run)]
    lab.wait_for("four refusals", lambda: all((log / f"{job}_0_log.out").exists() for job in refused))
    lab.wait_ended()
    afterwards = lab.cluster.sbatch(script)
    lab.cluster.run("scontrol", "release", afterwards)
    lab.wait_for("the last one's output", (log / f"{afterwards}_0_log.out").exists)
    lab.wait_queue_empty()
    assert len(refused) == 4
    for job in refused:
        said = (log / f"{job}_0_log.out").read_text()
        assert f"is being executed by job {executing(run)}" in said or "is done; nothing to do" in said, said
    assert f"is being executed by job {executing(run)}" in (log / f"{during}_0_log.out").read_text()
    assert "is done; nothing to do" in (log / f"{afterwards}_0_log.out").read_text()
    assert_executed_once(run)
    assert lab.status()[run.id]["state"] == "done"


def executing(run: runs.Run) -> str:
    """The job that claimed the run's first attempt."""
    owner = runs.attempts(run.dir)[0].owner
    assert owner is not None and owner.job is not None
    return owner.job


# --- Slurm does not answer ------------------------------------------------------------------------------------------


def test_without_a_controller_nothing_is_guessed_and_nothing_left(
    lab: Lab, other: Lab, killed: tuple[Lab, Future[None]]
) -> None:
    lab.launch(*SMALL, HOLD)
    run = lab.run()
    lab.cluster.wait_until_saved(lab.job(run))
    wait([killed[1]])  # it needs the controller
    lab.cluster.tool("kill", "slurmctld")
    try:
        guess, fresh = lab.start(*SMALL), other.start(*SMALL)
        shown = json.loads(lab.tool("status", "--json"))
        said = guess.said(4)
        print(f"asked for an active run: answered after {said.seconds:.1f} s")
        assert "cannot tell whether 1 of 1 runs are active" in said.text
        assert "Unable to contact slurm controller" in said.text
        assert submits(run) == 1
        said = fresh.said(4)
        print(f"asked for a new run: answered after {said.seconds:.1f} s")
        assert "Unable to contact slurm controller" in said.text
        assert "nothing was queued" in said.text
        assert other.runs() == [] and other.launches() == []
        assert "Unable to contact slurm controller" in shown["slurm_error"]
        assert [row["state"] for row in shown["runs"]] == ["unknown"]
    finally:
        lab.cluster.tool("start", "slurmctld")
    started = [lab.start(*SMALL), other.start(*SMALL)]
    assert "nothing to submit" in started[0].said().text
    started[1].said()
    lab.cluster.run("scontrol", "release", lab.job(run))
    for each in (lab, other):
        each.wait_ended()
        assert_executed_once(each.run())


# --- last: the run that was started first ---------------------------------------------------------------------------


def test_a_run_saves_and_stops_before_its_allocation_ends(short_allocation: Lab) -> None:
    lab = short_allocation
    lab.wait_ended()
    run = lab.run()
    assert kinds(run) == ["stopped"]
    by = at(engine_yaml(run), "checkpointing.checkpoint_must_save_by")
    assert "00:00:00:20" <= by <= "00:00:00:30"  # half of what was left of the minute
    end = runs.attempts(run.dir)[0].end
    assert (
        end is not None and end["why"] == f"saved before the time limit; checkpoint of step {end['last_step']} of 120"
    )
    assert checkpoints(run) == [end["last_step"]] == train_steps(run)[-1:]
    assert files.tail(run.dir / "attempts" / "1" / "stdout.log").endswith(
        "Timeout has been reached, stopping training early\n"
    )
    lab.wait_queue_empty()
    assert lab.status()[run.id]["state"] == "stopped"
