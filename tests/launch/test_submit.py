"""What a launch writes and sends: batch scripts, folders, intents, and what is left when it fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core_case import Answer, everything_below, frozen, make_attempt, prepared, standin

from nano_exp import files, slurm
from nano_exp.errors import UserError
from nano_exp.launch import (
    allocation,
    batch_script,
    convergence,
    flow,
    job_arrays,
    retry,
    slurm_options,
    staging,
    submit,
)
from nano_exp.launch.dependency import After
from nano_exp.launch.terms import Terms
from nano_exp.preflight import answers
from nano_exp.store import halt, run_config, runs, state
from nano_exp.store.queue_lookup import job_lookup

GOLDEN = Path(__file__).parents[1] / "golden"
ID = "20260102-030405-abcd"


def arranged(folder: Path, *points: list[str]) -> job_arrays.Launch:
    """A launch of these points with a fixed id; nothing is written."""
    rows = convergence.make([frozen(folder, *standin(), *point) for point in points], False, Answer([])).rows
    return job_arrays.arrange(rows, ID, folder / "results")


def script(folder: Path, *points: list[str], **parameters: Any) -> str:
    """The batch script of the first array, with this test's own paths taken out."""
    launch = arranged(folder, *(points or ([],)))
    text = batch_script.script(launch, launch.arrays[0], parameters)
    return text.replace(str(folder), "{FOLDER}").replace(sys.executable, "{PYTHON}")


# --- the batch script -----------------------------------------------------------------------------------------------


#: What is asked for of CPUs, memory, exclusiveness and GPUs: settings and hydra.launcher's -> the options.
SHARED = "site.allocation=share"
ASKED: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "whole nodes by default": ([], {}, "exclusive gpus-per-node=8 mem=0"),
    "whole nodes, typed": (["site.allocation=node"], {}, "exclusive gpus-per-node=8 mem=0"),
    "less memory than all": (["site.memory_gb=1900"], {}, "exclusive gpus-per-node=8 mem=1945600M"),
    "memory typed": ([], {"mem_gb": 100}, "exclusive gpus-per-node=8 mem=100GB"),
    "memory by the CPU": ([], {"mem_per_cpu": "4G"}, "exclusive gpus-per-node=8 mem-per-cpu=4G"),
    "not exclusive, typed": ([], {"additional_parameters": {"exclusive": False}}, "gpus-per-node=8 mem=0"),
    "only CPUs of other users": (
        [],
        {"additional_parameters": {"exclusive": "user"}},
        "exclusive=user gpus-per-node=8 mem=0",
    ),
    "CPUs at least": (["slurm.cpus_per_node=32"], {}, "cpus-per-task=32 exclusive gpus-per-node=8 mem=0"),
    "a share as Slurm divides it": ([SHARED], {}, "cpus-per-task=112 gpus-per-node=8 mem=2048000M"),
    "of fewer GPUs": ([SHARED, "++cluster.gpus_per_node=2"], {}, "cpus-per-task=28 gpus-per-node=2 mem=512000M"),
    "of a partition": ([SHARED], {"partition": "old"}, "cpus-per-task=32 gpus-per-node=8 mem=600000M partition=old"),
    "of one whose memory Slurm does not know": (
        [SHARED],
        {"partition": "mini"},
        "cpus-per-task=64 gpus-per-node=8 partition=mini",
    ),
    "of one that is not there": (
        [SHARED],
        {"partition": "x"},
        "cpus-per-task=128 gpus-per-node=8 partition=x",
    ),
    "a share, typed": (
        [SHARED, "site.cpus_per_gpu=6", "site.memory_gb_per_gpu=100"],
        {},
        "cpus-per-task=48 gpus-per-node=8 mem=819200M",
    ),
    "a share, CPUs typed": (
        [SHARED, "slurm.cpus_per_node=5"],
        {"mem_gb": 1},
        "cpus-per-task=5 gpus-per-node=8 mem=1GB",
    ),
    "a share, CPUs by the GPU": (
        [SHARED],
        {"cpus_per_gpu": 4, "mem_per_gpu": "9G"},
        "cpus-per-gpu=4 gpus-per-node=8 mem-per-gpu=9G",
    ),
    "GPUs by their type": (["site.gres=gpu:h100"], {}, "exclusive gres=gpu:h100:8 mem=0"),
    "GPUs that Slurm does not know": (["site.gres=none"], {}, "exclusive mem=0"),
    "GPUs typed": (["site.gres=gpu:h100"], {"gres": "gpu:a100:8"}, "exclusive gres=gpu:a100:8 mem=0"),
}
SINFO = """batch*|up|infinite|1-infinite|4|112|gpu:h100:8|idle|NO|2048000
batch*|up|infinite|1-infinite|4|192|gpu:h100:8|idle|NO|2048000
old|up|infinite|1-infinite|4|32|gpu:a100:8|idle|NO|600000+
mini|up|infinite|1-infinite|2|64|gpu:8|idle|NO|1
"""


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_for_beside_the_nodes(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """--exclusive alone gives all CPUs of a node and a part of its memory."""
    monkeypatch.setattr(allocation, "_nodes", lambda: answers.parse_nodes(SINFO))
    settings, parameters, expected = ASKED[name]
    options = re.findall(r"^#SBATCH --(.*)$", script(tmp_path, settings, **parameters), re.MULTILINE)
    words = ("cpus", "mem", "exclusive", "gpus", "gres", "partition")
    assert " ".join(option for option in options if option.startswith(words)) == expected


def test_a_share_where_slurm_does_not_answer_has_ray_subs_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_nodes", tuple)
    text = script(tmp_path, [SHARED, "++cluster.gpus_per_node=2"])
    assert "--cpus-per-task=32\n" in text and "--mem" not in text


#: The parameters as Hydra hands them over: hydra-submitit-launcher's defaults with the site's values.
DEFAULTS: dict[str, Any] = {
    "submitit_folder": "x",
    "timeout_min": 240,
    "cpus_per_task": None,
    "gpus_per_node": None,
    "tasks_per_node": 1,
    "mem_gb": None,
    "nodes": 1,
    "name": "launch",
    "stderr_to_stdout": True,
    "partition": None,
    "qos": None,
    "comment": None,
    "constraint": None,
    "exclude": None,
    "gres": None,
    "cpus_per_gpu": None,
    "gpus_per_task": None,
    "mem_per_gpu": None,
    "mem_per_cpu": None,
    "account": None,
    "signal_delay_s": 120,
    "max_num_timeout": 0,
    "additional_parameters": {},
    "array_parallelism": 256,
    "setup": None,
}

SCRIPTS: dict[str, tuple[list[list[str]], dict[str, Any]]] = {
    "single": ([[]], {}),
    "array": ([["grpo.seed=1"], ["grpo.seed=2"], ["grpo.seed=3"]], {}),
    "two_nodes_with_everything": (
        [["++cluster.num_nodes=2", "site.setup=['module load cuda']", "run.name=lr-sweep"]],
        {
            "partition": "gpu",
            "account": "team",
            "qos": "long",
            "timeout_min": 90,
            "setup": ["export A=1"],
            "additional_parameters": {"exclusive": True, "mem": 0},
            "comment": "two words",
        },
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_batch_script_is_the_golden_one(tmp_path: Path, name: str) -> None:
    """After a wanted change: NANO_EXP_WRITE_GOLDEN=1 writes the files again; review the diff."""
    points, parameters = SCRIPTS[name]
    found = script(tmp_path, *points, **{**DEFAULTS, **parameters})
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("NANO_EXP_WRITE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_signal_is_asked_for_and_requeue_always(name: str) -> None:
    text = (GOLDEN / f"{name}.sbatch").read_text()
    assert "--signal" not in text
    assert "#SBATCH --requeue\n" in text
    assert "submitit" not in text.lower()
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_the_name_of_a_job_tells_launch_array_and_runs(tmp_path: Path) -> None:
    launch = arranged(tmp_path, ["run.name=a"], ["run.name=b"])
    assert [a.job_name for a in launch.arrays] == [f"nx-{ID}.0-a", f"nx-{ID}.1-b"]


def test_runs_of_one_shape_share_an_array(tmp_path: Path) -> None:
    two = ["++cluster.num_nodes=2"]
    launch = arranged(tmp_path, ["grpo.seed=1"], [*two, "grpo.seed=1"], ["grpo.seed=2"], [*two, "grpo.seed=2"])
    assert [(a.number, a.shape.nodes, len(a.rows)) for a in launch.arrays] == [(0, 1, 2), (1, 2, 2)]
    assert [str(a.shape) for a in launch.arrays] == ["1 x 8 GPUs, whole nodes", "2 x 8 GPUs, whole nodes"]
    seeds = [[row.config["grpo"]["seed"] for row in a.rows] for a in launch.arrays]
    assert seeds == [[1, 2], [1, 2]]
    assert "--nodes=2" in batch_script.script(launch, launch.arrays[1], DEFAULTS)


def test_a_shape_with_more_runs_than_slurm_takes_becomes_several_arrays(tmp_path: Path) -> None:
    two = "++cluster.num_nodes=2"
    points = [[f"grpo.seed={n}"] for n in range(7)] + [[two, f"grpo.seed={n}"] for n in range(2)]
    rows = convergence.make([frozen(tmp_path, *standin(), *point) for point in points], False, Answer([])).rows
    launch = job_arrays.arrange(rows, ID, tmp_path / "results", Terms(parallel=5), limit=3)
    assert [(a.number, a.shape.nodes, len(a.rows)) for a in launch.arrays] == [
        (0, 1, 2),
        (1, 1, 2),
        (2, 1, 3),
        (3, 2, 2),
    ]
    assert [row.id for a in launch.arrays for row in a.rows] == [row.id for row in rows]
    scripts = [batch_script.script(launch, a, DEFAULTS) for a in launch.arrays]
    arrays = [re.findall(r"--array=(.*)", text)[0] for text in scripts]
    assert arrays == ["0-1%2", "0-1%1", "0-2%1", "0-1%1"]  # five in all, from 0 in each
    assert [re.findall(r"--array (\d+)$", text, re.MULTILINE) for text in scripts] == [["0"], ["1"], ["2"], ["3"]]
    few = job_arrays.arrange(rows, ID, tmp_path / "results", Terms(parallel=3), limit=3)
    assert [(a.throttle, a.behind) for a in few.arrays] == [(1, None), (1, None), (1, None), (1, 0)]


def test_arrays_can_be_made_smaller_than_slurms_limit(tmp_path: Path) -> None:
    points = [["slurm.max_array=2", f"grpo.seed={n}"] for n in range(3)]
    assert [len(a.rows) for a in arranged(tmp_path, *points).arrays] == [1, 2]
    with pytest.raises(UserError, match="max_array=0"):
        arranged(tmp_path, ["slurm.max_array=0"])


def test_slurm_is_asked_for_its_limit_only_for_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def limit() -> int:
        asked.append(1)
        return 101

    monkeypatch.setattr(slurm, "array_limit", limit)
    assert (job_arrays.array_limit(2), job_arrays.array_limit(1000)) == (1001, 101)
    assert asked == [1]


def test_without_an_answer_slurms_default_is_assumed_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def limit() -> int:
        raise slurm.NoAnswer("Unable to contact slurm controller")

    monkeypatch.setattr(slurm, "array_limit", limit)
    assert job_arrays.array_limit(2000) == 1001
    assert "Unable to contact slurm controller; arrays are made for Slurm's default" in capsys.readouterr().err


def test_a_launch_waits_for_what_it_is_told_and_for_its_canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = waiting(tmp_path, Terms(parallel=1, canary=True), ["afterok:7"])
    sent: list[tuple[str, ...]] = []

    def sbatch(script: Path, *options: str, **_: object) -> str:
        sent.append((script.name, *options))
        return str(20 + len(sent))

    monkeypatch.setattr(slurm, "sbatch", sbatch)
    submit.send(launch)
    assert sent == [
        ("array-canary.sbatch",),
        ("array-0.sbatch", "--dependency=afterok:7,afterok:21"),
        ("array-1.sbatch", "--dependency=afterok:7,afterok:21,afterany:22"),
    ]
    for word in ("canary", "0", "1"):
        text = (launch.dir / f"array-{word}.sbatch").read_text()
        assert "#SBATCH --dependency=afterok:7\n" in text
        assert "#SBATCH --kill-on-invalid-dep=yes\n" in text
        assert f"--array {word}\n" in text
    assert runs.jobs_of(launch.results, launch.id) == {0: "22", 1: "23"}
    for array in launch.arrays:
        now = Answer([]).state(runs.load(array.rows[0].dir))
        assert now.kind == "unstarted"
        assert now.why == "left the queue before it started; it waited for afterok:7, the launch's canary"


def waiting(folder: Path, asked: Terms, after: list[str]) -> job_arrays.Launch:
    """A launch of two runs of two shapes with everything written and nothing sent."""
    points = [frozen(folder, *standin()), frozen(folder, *standin(), "++cluster.num_nodes=2")]
    launch = job_arrays.arrange(convergence.make(points, False, Answer([])).rows, ID, folder / "results", asked)
    launch.after = After(tuple(after))
    staging.prepare(launch, "slurm", {}, [])
    return launch


def test_a_canary_goes_when_its_launch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = waiting(tmp_path, Terms(canary=True), [])

    def sbatch(script: Path, *options: str, **_: object) -> str:
        if "canary" in script.name:
            return "21"
        raise slurm.Refused("no", "why", "fix")

    cancelled: list[Sequence[str]] = []
    monkeypatch.setattr(slurm, "sbatch", sbatch)
    monkeypatch.setattr(slurm, "scancel", cancelled.append)
    with pytest.raises(slurm.Refused):
        submit.send(launch)
    assert cancelled == [["21"]]
    assert not [p for p in everything_below(tmp_path) if "lock" not in p and p not in ("results", "results/.launches")]


def test_a_canary_that_fails_while_the_rest_is_sent_keeps_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = waiting(tmp_path, Terms(canary=True), [])

    def sbatch(script: Path, *options: str, **_: object) -> str:
        files.write_json(launch.dir / halt.FILE, {"why": "the canary failed: out of memory"})
        return "21"

    monkeypatch.setattr(slurm, "sbatch", sbatch)
    with pytest.raises(UserError) as caught:
        submit.send(launch)
    assert (caught.value.found, caught.value.code) == ("the canary failed: out of memory", 3)
    assert launch.canary is not None and launch.canary.rows[0].dir.is_dir()
    assert list(runs.find(launch.results)) == []


def test_a_launch_that_was_stopped_sends_no_more_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = waiting(tmp_path, Terms(), [])

    def sbatch(script: Path, *options: str, **_: object) -> str:
        files.write_json(launch.dir / halt.FILE, {"why": "fail_fast=1: 1 failed"})  # while it was being sent
        return "21"

    monkeypatch.setattr(slurm, "sbatch", sbatch)
    with pytest.raises(UserError, match="fail_fast=1: 1 failed"):
        submit.send(launch)
    assert runs.sent(launch.dir) == {0: "21", 1: ""}
    assert not launch.arrays[1].rows[0].dir.exists()


def test_runs_of_another_site_have_an_array_of_their_own_and_the_manifest_names_it(tmp_path: Path) -> None:
    launch = prepared(tmp_path, *standin(), points=[["grpo.seed=1"], ["grpo.seed=2", "+site.env.A=1"], ["grpo.seed=3"]])
    assert [len(a.rows) for a in launch.arrays] == [2, 1]
    entries = files.read_json(launch.dir / "manifest.json")["arrays"]
    assert [entry["site"]["env"] for entry in entries] == [{}, {"A": 1}]


def test_gpus_are_asked_for_once(tmp_path: Path) -> None:
    assert "--gpus-per-node=8" in script(tmp_path)
    text = script(tmp_path, gres="gpu:h100:8")
    assert "--gres=gpu:h100:8" in text
    assert "gpus-per-node" not in text
    assert "gpus" not in script(tmp_path, ["++cluster.gpus_per_node=0"])


def test_an_array_runs_no_more_at_once_than_asked(tmp_path: Path) -> None:
    points = [[f"grpo.seed={n}"] for n in range(4)]
    assert "--array=0-3%2\n" in script(tmp_path, *points, array_parallelism=2)


@pytest.mark.parametrize(
    ("parameters", "found"),
    [({"nodes": 3}, "hydra.launcher.nodes=3"), ({"gpus_per_node": 4}, "hydra.launcher.gpus_per_node=4")],
)
def test_another_shape_than_the_configs_is_refused(tmp_path: Path, parameters: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError) as caught:
        script(tmp_path, **parameters)
    assert found in caught.value.found
    assert "cluster" in caught.value.fix


def test_the_shape_may_be_repeated(tmp_path: Path) -> None:
    assert "--nodes=1\n" in script(tmp_path, nodes=1, gpus_per_node=8)


EXTRA = "additional_parameters"


@pytest.mark.parametrize(
    ("parameters", "lines"),
    [
        ({EXTRA: {"gpus-per-node": "h100:8"}}, ["--gpus-per-node=h100:8"]),
        ({EXTRA: {"gpus": 8}}, ["--gpus=8"]),
        ({EXTRA: {"gres": "gpu:8,nvme:1"}}, ["--gres=gpu:8,nvme:1"]),
        ({EXTRA: {"gres": "nvme:1"}}, ["--gres=nvme:1", "--gpus-per-node=8"]),
        ({"gpus_per_task": 8}, ["--gpus-per-task=8"]),
        ({EXTRA: {"cpus-per-task": 9}}, ["--cpus-per-task=9"]),
        ({"cpus_per_gpu": 4}, ["--cpus-per-gpu=4"]),
        ({EXTRA: {"time": "1-00"}, "timeout_min": 60}, ["--time=1-00"]),
        ({EXTRA: {"--partition": "p"}, "partition": "q"}, ["--partition=p"]),
        ({EXTRA: {"wckey": "team"}}, ["--wckey=team"]),
        ({EXTRA: {"kill-on-invalid-dep": "no"}}, ["--kill-on-invalid-dep=no"]),
        ({EXTRA: {"requeue": True, "exclusive": True, "hold": False}}, ["--requeue", "--exclusive"]),
    ],
    ids=str,
)
def test_what_is_typed_wins_and_stands_in_the_script_once(
    tmp_path: Path, parameters: dict[str, Any], lines: list[str]
) -> None:
    text = script(tmp_path, **parameters)
    options = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    assert [line for line in lines if line not in options] == []
    names = [option.partition("=")[0] for option in options]
    assert sorted(names) == sorted(set(names))
    asking = {name for name in names if name in ("--gpus", "--gpus-per-node", "--gpus-per-task", "--gres")}
    assert len(asking - {"--gres"}) <= 1 and not ("gpu:" in text and len(asking) > 1)
    assert not {"--cpus-per-gpu", "--cpus-per-task"} <= set(names)
    assert "--hold" not in text


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({EXTRA: {"gpus-per-node": "h100:1"}}, "gpus-per-node=h100:1, but the runs are for 8 GPUs a node"),
        ({EXTRA: {"gres": "gpu:4"}}, "gres=gpu:4, but"),
        ({"gres": "gpu:h100:4"}, "hydra.launcher.gres=gpu:h100:4, but"),
        ({"gpus_per_task": 1}, "hydra.launcher.gpus_per_task=1, but"),
        ({EXTRA: {"gpus": 16}}, "gpus=16, but the runs are for 8 GPUs"),
        ({EXTRA: {"signal": "B:USR2@60"}}, "signal=B:USR2@60"),
        ({EXTRA: {"no-requeue": True}}, "no-requeue=True"),
        ({EXTRA: {"requeue": False}}, "requeue=False"),
        ({EXTRA: {"job-name": "x"}}, "job-name=x"),
        ({EXTRA: {"--array": "0-9"}}, "array=0-9"),
        ({EXTRA: {"ntasks-per-node": 8}}, "ntasks-per-node=8"),
        ({EXTRA: {"wait": True}}, "wait=True"),
        ({EXTRA: {"mem": 0, "--mem": 1}}, "has mem twice"),
        ({"tasks_per_node": 8}, "hydra.launcher.tasks_per_node=8"),
        ({"signal_delay_s": 600}, "hydra.launcher.signal_delay_s=600"),
        ({"max_num_timeout": 3}, "hydra.launcher.max_num_timeout=3"),
        ({"teardown": ["echo done"]}, "hydra.launcher.teardown="),
        ({"use_srun": True}, "hydra.launcher.use_srun=True"),
    ],
    ids=str,
)
def test_what_the_launch_decides_itself_is_refused_by_name(
    tmp_path: Path, parameters: dict[str, Any], found: str
) -> None:
    with pytest.raises(UserError) as caught:
        script(tmp_path, **parameters)
    assert found in caught.value.found
    assert caught.value.fix


@pytest.mark.parametrize(
    "typed",
    [
        ["hydra.launcher.name=x"],
        ["hydra.launcher.submitit_folder=x"],
        ["hydra.launcher.timeout_min=60", "+hydra.launcher.additional_parameters.time=1-00"],
        ["hydra.launcher.mem_gb=60", "+hydra.launcher.additional_parameters.mem=0"],
        ["hydra.launcher.partition=a", "+hydra.launcher.additional_parameters.partition=b"],
        ["hydra.launcher.partition=a", "hydra.launcher={partition: b, timeout_min: 60}"],
        ["hydra.launcher={timeout_min: 60}", "hydra.launcher={additional_parameters: {time: 1-00}}"],
        ["+hydra.launcher.additional_parameters.mem=1", "hydra.launcher.additional_parameters={mem:2}"],
        ["hydra.launcher={name: x}"],
    ],
    ids=str,
)
def test_a_setting_that_would_be_lost_is_refused(typed: list[str]) -> None:
    with pytest.raises(UserError, match=re.escape(typed[0])):
        slurm_options.refuse_typed(typed)
    slurm_options.refuse_typed(["hydra.launcher.timeout_min=60", "grpo.seed=1", "hydra.launcher.timeout_min"])
    slurm_options.refuse_typed(["hydra.launcher.timeout_min=60", "hydra.launcher={partition: a}", "hydra.launcher={"])


def test_a_retry_changes_single_options_and_keeps_the_launchs_others() -> None:
    typed = ["+hydra.launcher.additional_parameters.cpu-freq=high", "hydra.launcher={timeout_min: 5}"]
    changes = retry.launcher_overrides([*typed, "hydra.launcher.additional_parameters={mem: 2G}"])
    assert changes == {"timeout_min": 5, EXTRA: {"cpu-freq": "high", "mem": "2G"}}
    sent = {"partition": "a", "timeout_min": 60, EXTRA: {"--mem": 0, "licenses": "x"}}
    assert slurm_options.merged(sent, changes) == {
        "partition": "a",
        "timeout_min": 5,
        EXTRA: {"licenses": "x", "cpu-freq": "high", "mem": "2G"},
    }
    with pytest.raises(UserError, match=re.escape("hydra.launcher=5")):
        retry.launcher_overrides(["hydra.launcher=5"])


@pytest.mark.parametrize("parameters", [{"foo": 3}, {"mem_gb": 1, "mem": "2G"}], ids=str)
def test_what_submitit_does_not_take_is_answered_in_three_parts(tmp_path: Path, parameters: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        script(tmp_path, **parameters)
    assert caught.value.found.startswith("hydra.launcher")
    assert "timeout_min" in caught.value.fix


# --- what is written before sbatch ----------------------------------------------------------------------------------


def test_everything_is_there_before_a_job_can_be(tmp_path: Path) -> None:
    launch = prepared(tmp_path, *standin(), points=[["grpo.seed=1"], ["grpo.seed=2"]])
    below = everything_below(launch.dir)
    assert {"manifest.json", "array-0.sbatch", "git.json", "slurm", "code/nano_exp/job/attempt.py"} <= set(below)
    manifest = files.read_json(launch.dir / "manifest.json")
    rows = launch.arrays[0].rows
    assert manifest["arrays"][0]["runs"] == [str(row.dir) for row in rows]
    assert manifest["arrays"][0]["job_name"] == launch.arrays[0].job_name
    for index, row in enumerate(rows):
        run = runs.load(row.dir)
        assert run.damaged == []
        assert run.config() == run_config.remembered(row.config)
        assert not {"wait", "parallel", "ignore"} & set(run.config())
        assert run.record["digest"] == row.frozen.digest
        assert run.record["max_steps"] == row.config["grpo"]["max_num_steps"]
        sent = state.submission(run)
        assert sent == state.Submission(launch.id, 0, index, 0, None)
    assert not [p for p in everything_below(tmp_path) if "staging" in p]


def test_a_run_takes_at_most_13_kib_before_it_starts(tmp_path: Path) -> None:
    place = ("model=nano_30b", "cluster=2n8g", "grpo.num_generations_per_prompt=8")
    launch = prepared(tmp_path, *place, points=[["optimizer.lr=1e-6"], ["optimizer.lr=2e-6"]])
    for row in launch.arrays[0].rows:
        assert sum(path.stat().st_size for path in row.dir.rglob("*") if path.is_file()) <= 13 * 1024


def test_a_single_run_is_no_array_task(tmp_path: Path) -> None:
    launch = prepared(tmp_path, *standin())
    sent = state.submission(runs.load(launch.arrays[0].rows[0].dir))
    assert sent is not None
    assert sent.task is None
    assert launch.arrays[0].job_of(0) == ""


def test_a_run_that_is_started_again_keeps_its_files_and_gets_an_intent(tmp_path: Path) -> None:
    first = prepared(tmp_path, *standin())
    run = first.arrays[0].rows[0].dir
    make_attempt(run, 1, runs.this_process(), {"kind": "failed", "why": ""})
    before = (run / "config.yaml").read_bytes(), (run / "run.json").read_bytes()
    second = prepared(tmp_path, *standin())
    assert second.arrays[0].rows[0].dir == run
    assert ((run / "config.yaml").read_bytes(), (run / "run.json").read_bytes()) == before
    sent = state.submission(runs.load(run))
    assert sent is not None
    assert (sent.launch, sent.after_attempt) == (second.id, 1)


def test_a_local_launch_names_its_launcher(tmp_path: Path) -> None:
    launch = prepared(tmp_path, where="local")
    sent = state.submission(runs.load(launch.arrays[0].rows[0].dir))
    assert sent is not None
    assert sent.local == runs.this_process()
    assert (launch.dir / "local").is_dir()
    assert not list(launch.dir.glob("*.sbatch"))


def test_launch_ids_sort_by_time_and_differ() -> None:
    ids = [job_arrays.new_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", i) for i in ids)


# --- when it cannot be written --------------------------------------------------------------------------------------


def left(results: Path) -> list[str]:
    return [p for p in everything_below(results) if p not in (".launches", ".launches/lock")]


@pytest.mark.parametrize("blocked", ["results", "results/nano_12b", "results/.launches"])
def test_a_file_in_place_of_a_folder_leaves_nothing_behind(tmp_path: Path, blocked: str) -> None:
    """In place of missing permission, which does not bind root."""
    path = tmp_path / blocked
    path.parent.mkdir(exist_ok=True)
    path.write_text("in the way")
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, *standin())
    assert "cannot write" in caught.value.found
    assert "run.results=" in caught.value.fix
    assert set(everything_below(tmp_path)) <= {"results", blocked}
    assert path.read_text() == "in the way"


def test_a_bad_script_leaves_nothing_behind(tmp_path: Path) -> None:
    made = convergence.make([frozen(tmp_path, *standin())], False, Answer([]))
    launch = job_arrays.arrange(made.to_submit, ID, tmp_path / "results")
    with pytest.raises(UserError):
        staging.prepare(launch, "slurm", {"nodes": 3}, [])
    assert left(tmp_path / "results") == []


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of so many kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs to mount a tmpfs (root): {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("small_disk", [8, 16, 24, 48, 128, 400], indirect=True)
def test_a_full_disk_leaves_nothing_behind(small_disk: Path) -> None:
    """The sizes make it full at the run's config, at its events, and in the copy of the code."""
    made = convergence.make([frozen(small_disk, *standin(), f"grpo.seed={n}") for n in (1, 2)], False, Answer([]))
    launch = job_arrays.arrange(made.to_submit, ID, small_disk / "results")
    with pytest.raises(UserError) as caught:
        staging.prepare(launch, "slurm", {}, [])
    assert caught.value.why == "the disk is full"
    assert left(small_disk / "results") == []
    assert not convergence.make([row.frozen for row in made.rows], False, Answer([])).of("unstarted", "damaged")


def test_a_full_disk_keeps_a_run_that_was_there(tmp_path: Path) -> None:
    first = prepared(tmp_path, *standin())
    run = first.arrays[0].rows[0].dir
    before = everything_below(run)
    made = convergence.make(
        [frozen(tmp_path, *standin()), frozen(tmp_path, *standin(), "grpo.seed=5")], False, Answer([])
    )
    launch = job_arrays.arrange(made.to_submit, ID, tmp_path / "results")
    with pytest.raises(UserError):
        staging.prepare(launch, "slurm", {"nodes": 3}, [])
    assert everything_below(run) == before
    assert [r.dir for r in runs.find(tmp_path / "results")] == [run]


# --- sending --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of sbatch: its nth call does what the nth line of the file says (`123`, or words)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    answers = tmp_path / "answers"
    program = folder / "sbatch"
    program.write_text(
        f'#!/bin/sh\necho call >> {tmp_path}/calls\nline=$(sed -n "$(wc -l < {tmp_path}/calls)p" {answers})\n'
        'case "$line" in [0-9]*) echo "$line";; *) echo "sbatch: error: $line" >&2; exit 1;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return answers


THREE_SHAPES = [["++cluster.num_nodes=1"], ["++cluster.num_nodes=2"], ["++cluster.num_nodes=3"]]


def test_each_array_is_sent_and_its_job_written_down(tmp_path: Path, sbatch: Path) -> None:
    sbatch.write_text("101\n102\n103\n")
    launch = prepared(tmp_path, *standin(), points=THREE_SHAPES)
    submit.send(launch)
    assert [a.job for a in launch.arrays] == ["101", "102", "103"]
    assert runs.jobs_of(launch.results, launch.id) == {0: "101", 1: "102", 2: "103"}


def test_a_refusal_leaves_no_run_as_if_submitted(tmp_path: Path, sbatch: Path) -> None:
    sbatch.write_text("Batch job submission failed: Invalid account or account/partition combination specified\n")
    launch = prepared(tmp_path, *standin(), points=[["grpo.seed=1"], ["grpo.seed=2"]])
    with pytest.raises(slurm.Refused, match="Invalid account") as caught:
        submit.send(launch)
    assert caught.value.code == 3
    assert left(tmp_path / "results") == []


def test_what_was_sent_before_a_refusal_stays(tmp_path: Path, sbatch: Path) -> None:
    sbatch.write_text("101\nBatch job submission failed: Requested node configuration is not available\n")
    launch = prepared(tmp_path, *standin(), points=THREE_SHAPES)
    with pytest.raises(slurm.Refused):
        submit.send(launch)
    assert [r.dir for r in runs.find(launch.results)] == [launch.arrays[0].rows[0].dir]
    assert runs.jobs_of(launch.results, launch.id) == {0: "101"}


def test_a_run_that_was_there_remembers_the_refusal(tmp_path: Path, sbatch: Path) -> None:
    run = prepared(tmp_path, *standin()).arrays[0].rows[0].dir
    make_attempt(run, 1, runs.this_process(), {"kind": "stopped", "why": ""})
    launch = prepared(tmp_path, *standin())
    sbatch.write_text("Batch job submission failed: Invalid qos specification\n")
    with pytest.raises(slurm.Refused):
        submit.send(launch)
    found = runs.load(run)
    assert state.submission(found) is None
    refused = found.last("refused")
    assert refused is not None
    assert "Invalid qos" in refused.data["why"]
    assert state.state(found, runs.attempts(run), job_lookup(launch.results), Answer([])).kind == "stopped"


def test_what_was_not_even_asked_for_is_not_called_refused(tmp_path: Path, sbatch: Path) -> None:
    """Three arrays of runs that were there: one is taken, one refused, and Slurm never heard of the third."""
    for row in (array.rows[0] for array in prepared(tmp_path, *standin(), points=THREE_SHAPES).arrays):
        runs.record_event(row.dir, "cancel")
    launch = prepared(tmp_path, *standin(), points=THREE_SHAPES)
    sbatch.write_text("101\nBatch job submission failed: Invalid qos specification\n")
    with pytest.raises(slurm.Refused):
        submit.send(launch)
    found = [runs.load(array.rows[0].dir) for array in launch.arrays]
    queue = Answer([f"101|PENDING|{launch.arrays[0].job_name}|Priority"])
    states = [state.state(run, [], job_lookup(launch.results), queue) for run in found]
    assert [now.kind for now in states] == ["pending", "refused", "unstarted"]
    assert "Invalid qos" in states[1].why
    assert states[2].why.startswith("never submitted: an earlier array of the launch was refused: ")


def test_after_a_lost_answer_the_intent_stays_and_the_job_is_found_by_its_name(tmp_path: Path, sbatch: Path) -> None:
    sbatch.write_text("Batch job submission failed: Socket timed out on send/recv operation\n")
    launch = prepared(tmp_path, *standin(), points=THREE_SHAPES[:2])
    with pytest.raises(slurm.Unclear):
        submit.send(launch)
    first = launch.arrays[0]
    assert [r.dir for r in runs.find(launch.results)] == [first.rows[0].dir], "the second was certainly not sent"
    wanted = [row.frozen for array in launch.arrays for row in array.rows]
    queued = convergence.make(wanted, False, Answer([f"101|PENDING|{first.job_name}|Priority"]))
    assert [(r.state.kind, r.submit) for r in queued.rows] == [("pending", False), ("new", True)]
    not_queued = convergence.make(wanted, False, Answer([]))
    assert [(r.state.kind, r.submit) for r in not_queued.rows] == [("unstarted", True), ("new", True)]


# --- one launcher at a time -----------------------------------------------------------------------------------------


def test_a_second_launcher_waits_and_says_for_whom(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom nano_exp.launch import submit\n"
        "with submit.lock(pathlib.Path(sys.argv[1])):\n  print('in', flush=True); sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(argv, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    first, second = start(), None
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        second = start()
        assert second.stderr is not None
        assert f"pid {first.pid}" in second.stderr.readline()
        assert second.poll() is None
        first.kill()
        assert second.stdout is not None
        assert second.stdout.readline() == "in\n", "the lock ends with its holder, however that ends"
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()


def test_rows_of_a_launch_do_not_share_state(tmp_path: Path) -> None:
    """Guards the frozen dataclasses against an edit in place: a row copied with other values leaves the first."""
    row = arranged(tmp_path, []).arrays[0].rows[0]
    assert replace(row, submit=False).submit is False
    assert row.submit is True


@pytest.mark.parametrize("minutes", [None, 0, -5, "abc", float("inf"), True])
def test_a_time_limit_is_a_number_of_minutes(tmp_path: Path, minutes: Any) -> None:
    launch = prepared(tmp_path, *standin())
    with pytest.raises(UserError, match="timeout_min"):
        batch_script.script(launch, launch.arrays[0], {"timeout_min": minutes})


def test_ctrl_c_in_the_middle_says_what_is_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [["grpo.seed=1"], ["++cluster.num_nodes=2"], ["++cluster.num_nodes=4"]]
    rows = convergence.make([frozen(tmp_path, *standin(), *point) for point in points], False, Answer([])).rows
    sent: list[Path] = []

    def sbatch(script: Path, *options: str, **_: object) -> str:
        sent.append(script)
        if len(sent) == 2:
            raise KeyboardInterrupt
        return "21"

    monkeypatch.setattr(slurm, "sbatch", sbatch)
    with pytest.raises(KeyboardInterrupt):
        flow.dispatch(rows, "slurm", {}, tmp_path / "results", None)
    assert "Ctrl-C: 1 of 3 runs are in the queue, 2 are not" in capsys.readouterr().err
    states = [Answer(["21|PENDING|x|Priority"]).state(runs.load(row.dir)) for row in rows]
    assert [now.kind for now in states[1:]] == ["unstarted", "unstarted"]
    assert states[2].why == "never submitted: Ctrl-C came first"
    assert all(now.action == "submit" for now in states[1:])
