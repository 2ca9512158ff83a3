"""A launch inside an allocation: the check of the shape, what is written, and the two scripts without a Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from core_case import ROOT, Answer, environment, everything_below, make_attempt, point, prepared, standin
from pace import limit

from nano_exp import files, slurm
from nano_exp.errors import UserError
from nano_exp.inside import Train
from nano_exp.job import by_hand
from nano_exp.job.by_hand import Allocation, allocation, require_shape
from nano_exp.launch import job_arrays, show
from nano_exp.slurm.shapes import Shape
from nano_exp.store import runs, state
from nano_exp.store.queue_lookup import job_lookup

BATCH = {
    "SLURM_JOB_ID": "31",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_CPUS_PER_NODE": "16(x2)",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_JOB_PARTITION": "gpu",
    "SLURM_JOB_ACCOUNT": "(null)",
}
TRAIN = "slurm/train.sbatch"
HERE = Allocation("31", None, 1, 8, 16, {"partition": "gpu"})


# --- what Slurm gave, and what a run needs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, Allocation("31", None, 2, 8, 16, {"partition": "gpu"})),
        ({"SLURM_JOB_CPUS_PER_NODE": "16,8"}, Allocation("31", None, 2, 8, 8, {"partition": "gpu"})),
        ({"SLURM_JOB_CPUS_PER_NODE": "128(x3),64(x1)"}, Allocation("31", None, 2, 8, 64, {"partition": "gpu"})),
        (
            {"SLURM_GPUS_ON_NODE": "", "SLURM_GPUS_PER_NODE": "h100:4"},
            Allocation("31", None, 2, 4, 16, {"partition": "gpu"}),
        ),
        ({"SLURM_GPUS_ON_NODE": "", "SLURM_JOB_GPUS": "0,3"}, Allocation("31", None, 2, 2, 16, {"partition": "gpu"})),
        ({"SLURM_GPUS_ON_NODE": ""}, Allocation("31", None, 2, 0, 16, {"partition": "gpu"})),
        (
            {"SLURM_ARRAY_JOB_ID": "30", "SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_QOS": "long"},
            Allocation("30", 4, 2, 8, 16, {"partition": "gpu", "qos": "long"}),
        ),
    ],
)
def test_the_allocation_is_what_slurms_variables_say(changed: dict[str, str], expected: Allocation) -> None:
    assert allocation({**BATCH, **changed}) == expected


def test_outside_of_a_job_there_is_no_allocation() -> None:
    with pytest.raises(UserError, match="no SLURM_JOB_ID"):
        allocation({"PATH": "/bin"})


@pytest.mark.parametrize(
    ("have", "idle"), [((2, 8, 16), False), ((2, 8, 96), False), ((2, 10, 16), True)], ids=["equal", "cpus", "gpus"]
)
def test_an_allocation_that_has_what_the_run_needs_passes(have: tuple[int, int, int], idle: bool) -> None:
    remark = require_shape(Allocation("31", None, *have, {}), Shape(2, 8, 16), [TRAIN])
    assert ("2 of 10 GPUs a node stay idle" in remark) == idle


@pytest.mark.parametrize("have", [(1, 8, 16), (3, 8, 16), (2, 0, 16), (2, 7, 16), (2, 8, 15)])
def test_another_allocation_is_refused_with_the_command_that_asks_for_the_right_one(have: tuple[int, int, int]) -> None:
    command = [TRAIN, "model=nano_12b", "cluster=2n8g", "run.tags=[a, b]"]
    with pytest.raises(UserError) as refused:
        require_shape(Allocation("31", None, *have, {}), Shape(2, 8, 16), command)
    assert refused.value.found == f"job 31 has {Shape(*have)}"
    assert "2 x 8 GPUs, 16 CPUs a node" in refused.value.why
    wanted = f"sbatch -N2 --gpus-per-node=8 --cpus-per-task=16 {TRAIN} model=nano_12b cluster=2n8g 'run.tags=[a, b]'"
    assert refused.value.fix.startswith(wanted)


# --- train ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A launch folder that is the working folder, and no arguments of pytest's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["inside"])
    return tmp_path


def start(folder: Path, *overrides: str, have: Allocation = HERE) -> Train:
    train = Train(have, folder / "results" / ".launches" / "jobs" / "31", [TRAIN, *overrides])
    train.start([point(*overrides)], {"timeout_min": 90}, folder)
    return train


def test_the_first_start_freezes_the_run_for_this_job(folder: Path, checkout: Path) -> None:
    train = start(folder, *standin(checkout))
    (launch,) = (folder / "results" / ".launches").glob("2*")
    assert train.script == launch / "array-0.sbatch"
    assert "-m nano_exp.job" in train.script.read_text()
    assert train.record.read_text() == f"{launch}\n"
    assert runs.jobs_of(folder / "results", launch.name) == {0: "31"}
    assert files.read_json(launch / "manifest.json")["parameters"] == {"timeout_min": 90, "partition": "gpu"}
    (run,) = runs.find(folder / "results")
    now = state.state(run, [], job_lookup(run.results), Answer(["31|RUNNING|nano-exp|None"]))
    assert (now.kind, now.job) == ("running", "31"), "before its attempt has claimed it"
    gone = state.state(run, [], job_lookup(run.results), Answer([]))
    assert gone.kind == "unstarted"


def test_a_run_that_is_done_is_left_alone(folder: Path, checkout: Path) -> None:
    first = start(folder, *standin(checkout))
    (run,) = runs.find(folder / "results")
    make_attempt(run.dir, 1, runs.this_process("31"), {"kind": "done", "why": ""})
    before = everything_below(folder)
    again = start(folder, *standin(checkout), have=Allocation("32", None, 1, 8, 16, {}))
    assert first.script is not None
    assert again.script is None
    assert everything_below(folder) == before


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (["cluster=2n8g"], "job 31 has 1 x 8 GPUs"),
        (["model=nano_tiny", "cluster=local"], "cluster=local"),
        (["submit=false"], "submit=false in job 31"),
        (["submit=no"], "submit='no'"),
    ],
)
def test_what_a_job_cannot_train_is_refused_and_nothing_written(
    folder: Path, checkout: Path, more: list[str], found: str
) -> None:
    words = [word for word in standin(checkout) if not word.startswith("engine.")]  # the tiny run's engine has none
    with pytest.raises(UserError) as refused:
        start(folder, *words, *more)
    assert found in refused.value.found
    assert everything_below(folder) == []


def test_a_dry_run_shows_and_writes_nothing(folder: Path, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = start(folder, *standin(checkout), "dry_run=true")
    assert train.script is None
    assert "nothing was written" in capsys.readouterr().out
    assert everything_below(folder) == []


def test_one_job_trains_one_run(folder: Path, checkout: Path) -> None:
    with pytest.raises(UserError, match="task 3 of an array"):
        Train(Allocation("31", 3, 1, 8, 16, {}), folder / "record", [TRAIN])
    points = [point(*standin(checkout), f"grpo.seed={seed}") for seed in (1, 2)]
    with pytest.raises(UserError, match="2 points in one allocation"):
        Train(HERE, folder / "record", [TRAIN]).start(points, {}, folder)


# --- sweep ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def frozen(folder: Path, checkout: Path) -> job_arrays.Launch:
    """Three runs of 1n8g as array 0, one of 2n8g as array 1."""
    one, two = standin(checkout), [*standin(checkout), "cluster=2n8g"]
    return prepared(folder, points=[*([*one, f"grpo.seed={s}"] for s in (1, 2, 3)), two])


def task(number: int | None, nodes: int = 1, job: str = "40") -> Allocation:
    return Allocation(job, number, nodes, 8, 16, {})


def test_a_task_becomes_the_launchs_own_script_and_its_job_is_recorded(frozen: job_arrays.Launch) -> None:
    assert by_hand.sweep(task(2), [str(frozen.dir), "0"]) == frozen.dir / "array-0.sbatch"
    assert by_hand.sweep(task(None, nodes=2, job="41"), [str(frozen.dir), "1"]) == frozen.dir / "array-1.sbatch"
    assert runs.jobs_of(frozen.results, frozen.id) == {0: "40", 1: "41"}
    by_hand.sweep(task(0, job="42"), [str(frozen.dir), "0"])
    assert runs.jobs_of(frozen.results, frozen.id)[0] == "42", "sent again"


@pytest.mark.parametrize(
    ("have", "words", "found", "fix"),
    [
        (
            task(3),
            ["0"],
            "array task 3",
            "sbatch --array=0-2 -N1 --gpus-per-node=8 --exclusive --mem=0 slurm/sweep.sbatch",
        ),
        (task(None), ["0"], "job 40 is not an array", "sbatch --array=0-2 -N1"),
        (task(0), ["1"], "job 40 has 1 x 8 GPUs", "sbatch -N2 --gpus-per-node=8"),
        (task(0), [], "no array named", "slurm/sweep.sbatch results/.launches/"),
        (task(0), ["2"], "array 2", "slurm/sweep.sbatch results/.launches/"),
        (task(0), ["0", "1"], "array 0 1", "slurm/sweep.sbatch results/.launches/"),
    ],
)
def test_another_array_than_the_launchs_is_refused_with_the_right_command(
    frozen: job_arrays.Launch, have: Allocation, words: list[str], found: str, fix: str
) -> None:
    with pytest.raises(UserError) as refused:
        by_hand.sweep(have, [str(frozen.dir), *words])
    assert refused.value.found.startswith(found)
    assert fix in refused.value.fix
    assert runs.jobs_of(frozen.results, frozen.id) == {}


def test_a_folder_that_is_no_launch_is_said(folder: Path, frozen: job_arrays.Launch) -> None:
    with pytest.raises(UserError, match="No such file"):
        by_hand.sweep(task(0), [str(folder / "nothing")])
    manifest = frozen.dir / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"where": "slurm"', '"where": "local"'))
    with pytest.raises(UserError, match="its own machine"):
        by_hand.sweep(task(0), [str(frozen.dir), "0"])
    manifest.write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json"):
        by_hand.sweep(task(0), [str(frozen.dir), "0"])


def test_the_command_to_type_asks_for_what_the_launch_would_have(frozen: job_arrays.Launch) -> None:
    """Options of the launch's own script that sweep.sbatch has are left out, all others are there."""
    scripts = {n: (frozen.dir / f"array-{n}.sbatch").read_text() for n in (0, 1)}
    own = slurm.script_options((ROOT / "slurm" / "sweep.sbatch").read_text())
    for number, text in scripts.items():
        words = show.sbatch_command(frozen.dir, number).split()
        options = [word for word in words[1:] if word.startswith("--")]
        assert {*options, *own} >= set(slurm.script_options(text))
        assert words[-1] == str(number)
        assert f"--job-name=nx-{frozen.id}.{number}-nano_12b" in options
    assert "--array=0-2%3" in show.sbatch_command(frozen.dir, 0)
    assert "--nodes=2" in show.sbatch_command(frozen.dir, 1)


# --- the scripts, as Slurm starts them: a copy in a spool folder ----------------------------------------------------


def script(folder: Path, name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    copy = spool / "slurm_script"
    copy.write_text((ROOT / "slurm" / name).read_text())
    scontrol = spool / "scontrol"  # stands for Slurm's, which would look for a controller
    scontrol.write_text('#!/bin/sh\necho "JobId=$4 Command=${STUB_COMMAND:-(null)} WorkDir=/"\n')
    scontrol.chmod(0o755)
    whole = {**environment(), "PATH": f"{spool}:{os.environ['PATH']}", "NANO_EXP_PYTHON": sys.executable, **env}
    argv = ["bash", str(copy), *arguments]
    return subprocess.run(argv, cwd=folder, env=whole, capture_output=True, text=True, timeout=limit(60), check=False)


def job(folder: Path, **env: str) -> dict[str, str]:
    """The variables of a job on one node that was submitted from `folder`."""
    own = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_CLUSTER_NAME": "c", "SLURM_JOB_NUM_NODES": "1"}
    return {**BATCH, **own, "SLURM_JOB_CPUS_PER_NODE": "16", **env}


@pytest.mark.parametrize("name", ["train.sbatch", "sweep.sbatch"])
def test_a_script_that_sbatch_did_not_start_says_so(tmp_path: Path, name: str) -> None:
    done = script(tmp_path, name, "model=nano_9b")
    assert done.returncode == 2
    assert "was started without sbatch" in done.stderr
    assert "fix: sbatch " in done.stderr
    assert "model=nano_9b" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "words", "env", "found", "fix"),
    [
        ("train.sbatch", ["model=x"], {}, "no checkout of nano-exp", "cd to it before sbatch"),
        ("train.sbatch", [], {"SLURM_SUBMIT_DIR": "/nowhere"}, "there is no /nowhere", "shared file system"),
        ("sweep.sbatch", [], {}, "no launch named", "submit=false"),
        ("sweep.sbatch", ["20260101-000000-abcd"], {}, "no launch 20260101-000000-abcd", "ls results/.launches"),
    ],
)
def test_what_a_script_does_not_find_is_said(
    tmp_path: Path, name: str, words: list[str], env: dict[str, str], found: str, fix: str
) -> None:
    done = script(tmp_path, name, *words, **{**job(tmp_path), **env})
    assert done.returncode == 2
    assert found in done.stderr
    assert fix in done.stderr


def test_a_mistyped_option_ends_with_words_and_nothing_written(tmp_path: Path) -> None:
    where = job(tmp_path, STUB_COMMAND=f"{ROOT}/slurm/train.sbatch model=nano_9c cluster=1n8g")
    done = script(tmp_path, "train.sbatch", "model=nano_9c", "cluster=1n8g", **where)
    assert done.returncode == 2
    assert done.stderr.startswith("error: model=nano_9c\n")
    assert "fix: model=nano_9b" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["spool"]


def recorded(folder: Path, *arguments: str) -> Path:
    """A launch that job 31 with these arguments froze at its first start; its script ends with 7."""
    launch = folder / "results" / ".launches" / "L"
    launch.mkdir(parents=True)
    (launch / "manifest.json").write_text("{}")
    (launch / "array-0.sbatch").write_text('echo "executed $SLURM_JOB_ID"; exit 7\n')
    given = b"".join(f"{a}\0".encode() for a in arguments)
    checksum = subprocess.run(["cksum"], input=given, capture_output=True, check=True).stdout.split()[0].decode()
    record = launch.parent / "jobs" / f"c-31-{checksum}"
    record.parent.mkdir()
    record.write_text(f"{launch}\n")
    return record


def test_a_requeue_goes_on_with_what_was_frozen_and_needs_no_checkout(tmp_path: Path) -> None:
    recorded(tmp_path, "model=nano_9b", "a b")
    wanted = job(tmp_path, SLURM_RESTART_COUNT="1", NANO_EXP_PYTHON="/nowhere/python")
    done = script(tmp_path, "train.sbatch", "model=nano_9b", "a b", **wanted)
    assert done.stdout == "nano-exp: restart 1 of job 31: goes on with launch L\nexecuted 31\n"
    assert done.returncode == 7, "the exit code is the attempt's"


@pytest.mark.parametrize(
    "env", [{}, {"SLURM_RESTART_COUNT": "0"}, {"SLURM_CLUSTER_NAME": "d", "SLURM_RESTART_COUNT": "1"}]
)
def test_the_record_of_an_older_job_of_that_number_is_not_followed(tmp_path: Path, env: dict[str, str]) -> None:
    recorded(tmp_path, "model=nano_9b")
    done = script(tmp_path, "train.sbatch", "model=nano_9b", **job(tmp_path, **env))
    assert "executed" not in done.stdout
    assert "no checkout" in done.stderr


def test_a_launch_that_was_never_made_whole_is_no_launch(tmp_path: Path) -> None:
    record = recorded(tmp_path, "model=nano_9b")
    (record.parent.parent / "L" / "manifest.json").unlink()
    done = script(tmp_path, "train.sbatch", "model=nano_9b", **job(tmp_path, SLURM_RESTART_COUNT="1"))
    assert "no checkout" in done.stderr, "it begins anew"
