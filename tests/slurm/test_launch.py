"""Launches reach a real Slurm as they should: what is asked of it, what runs, and what its refusals leave."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from launching import (
    HOLD,
    NANO_12B,
    ROOT,
    SITE,
    SMALL,
    STANDIN,
    Lab,
    assert_executed_once,
    at,
    checkpoints,
    engine_yaml,
    kinds,
    no_ray_beside,
    opened,
    setting,
    train_steps,
)
from minicluster_tool import MiniCluster

from nano_exp import dotted, slurm
from nano_exp.dotted import leaves as leaves_of
from nano_exp.store import runs, trackers
from nano_exp.store.run_config import LAUNCHER_KEYS

pytestmark = pytest.mark.slurm


# --- the published rows ---------------------------------------------------------------------------------------------

#: model, cluster -> nodes
ROWS = {
    ("nano_9b", "1n8g"): 1,
    ("nano_9b", "2n8g"): 2,
    ("nano_12b", "1n8g"): 1,
    ("nano_12b", "2n8g"): 2,
    ("nano_30b", "1n8g"): 1,
    ("nano_30b", "2n8g"): 2,
}
PARSER = "nemotron_toolcall_parser_no_streaming.py"


@pytest.fixture(scope="module")
def rows(minicluster: MiniCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Every row by its own command, held in the queue. The 9B model's snapshot has its parser where the hub puts it."""
    with opened(minicluster, tmp_path_factory.mktemp("rows")) as lab:
        _submit_rows(lab)
        yield lab


def _submit_rows(lab: Lab) -> None:
    cache = lab.folder / "hf" / "hub" / "models--nvidia--NVIDIA-Nemotron-Nano-9B-v2"
    (cache / "snapshots" / "abc").mkdir(parents=True)
    (cache / "snapshots" / "abc" / PARSER).write_text("# a tool parser\n")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    common = (*SITE, "site.hf_home=hf", "++grpo.max_num_steps=3", HOLD)
    for first, second in zip(list(ROWS)[::2], list(ROWS)[1::2], strict=True):  # two at a time: two cores
        started = [lab.start(f"model={model}", f"cluster={shape}", *common) for model, shape in (first, second)]
        for launcher in started:
            launcher.said()


def row(lab: Lab, model: str, nodes: int) -> runs.Run:
    return lab.run(model__name=model, cluster__num_nodes=nodes)


@pytest.mark.parametrize(("model", "shape"), ROWS)
def test_a_row_reaches_sbatch(rows: Lab, model: str, shape: str) -> None:
    nodes = ROWS[model, shape]
    run = row(rows, model, nodes)
    job = rows.scontrol(run)
    assert job["NumNodes"] in (str(nodes), f"{nodes}-{nodes}")
    assert {k: job[k] for k in ("TresPerNode", "Task", "NumTasks", "TimeLimit", "Partition", "Requeue")} == {
        "TresPerNode": "gres:gpu:8",
        "Task": "64",  # CPUs/Task: the share of all eight GPUs is all of the node's
        "NumTasks": str(nodes),
        "TimeLimit": "04:00:00",
        "Partition": "batch",
        "Requeue": "1",
    }
    assert (job["JobState"], job["Reason"]) == ("PENDING", "JobHeldUser")
    launch = runs.launch_dir(rows.results, run.record["launch"])
    assert job["JobName"] == f"nx-{launch.name}.0-{model}"
    assert job["StdOut"] == job["StdErr"] == f"{launch}/slurm/{job['JobId']}_0_log.out"
    assert job["Command"] == f"{launch}/array-0.sbatch"
    assert rows.status(model)[run.id]["state"] == "pending"


def test_every_row_ends_as_done(rows: Lab, pytestconfig: pytest.Config) -> None:
    """Those of two nodes after those of one: both nodes show this machine's processes, and NeMo RL wants one Ray."""
    two = [place for place in ROWS if ROWS[place] == 2]
    left_out = [] if pytestconfig.getoption("thorough") else two[1:]
    ended = [place for place in ROWS if place not in left_out]
    for model, _ in left_out:
        rows.cluster.run("scancel", rows.job(row(rows, model, 2)))
    for nodes in (1, 2):
        chosen = [row(rows, model, nodes) for (model, shape) in ended if ROWS[model, shape] == nodes]
        with no_ray_beside(alone=nodes == 1):
            rows.cluster.run("scontrol", "release", *map(rows.job, chosen))
            rows.wait_ended(*chosen)
    table = rows.status()
    for model, shape in ended:
        run = row(rows, model, ROWS[model, shape])
        shown = table[run.id]
        assert_executed_once(run)
        assert checkpoints(run) == [3]
        assert (shown["state"], shown["step"], shown["max_steps"]) == ("done", 3, 3)
        assert shown["reward"] > 0
        assert "STAND-IN" in (run.dir / "attempts" / "1" / "stdout.log").read_text()
        plugin = at(engine_yaml(run), "policy.generation.vllm_cfg.tool_parser_plugin")
        if model == "nano_9b":
            assert str(plugin).endswith(f"snapshots/abc/{PARSER}") and Path(plugin).is_file()
        else:
            assert plugin is None
    ends = slurm_accounting(rows, [rows.job(row(rows, model, ROWS[model, shape])) for model, shape in ended])
    assert set(ends.values()) == {"COMPLETED"}


def slurm_accounting(lab: Lab, jobs: list[str]) -> dict[str, str]:
    """Job -> its state in sacct, once all of them have ended there."""
    found: dict[str, str] = {}

    def all_there() -> bool:
        text = lab.cluster.run("sacct", "-nXP", "-j", ",".join(jobs), "--format=jobid,state").stdout
        found.update(line.split("|") for line in text.splitlines())
        return len(found) == len(jobs) and "RUNNING" not in found.values()

    lab.wait_for("the jobs' ends in sacct", all_there)
    return found


# --- sweeps ---------------------------------------------------------------------------------------------------------


def test_a_sweep_of_2_x_3_is_one_array_of_six_configs(lab: Lab) -> None:
    axes = ("grpo.seed=1,2", "optimizer.lr=1e-6,5e-6,1e-5")
    said = lab.launch(*SMALL, *axes, HOLD, "hydra.launcher.array_parallelism=4", setting("STEP_SECONDS", 0.2))
    assert "6 runs (6 new), 6 to submit" in said.text
    lines = lab.queued()
    assert len(lines) == 1, lines
    array = lines[0].split("_")[0]
    assert lines[0].startswith(f"{array}_[0-5%4] PENDING nx-")  # what the real squeue prints is what is parsed:
    queue = slurm.queue()
    assert [queue.find(array, task) is not None for task in range(7)] == [True] * 6 + [False]
    named = queue.named(lines[0].split()[2])
    assert named is not None and named.id == array
    assert {r["state"] for r in lab.status().values()} == {"pending"}

    lab.cluster.run("scontrol", "release", array)
    lab.wait_ended()
    found = lab.runs()
    assert sorted(lab.job(run) for run in found) == [f"{array}_{task}" for task in range(6)]
    for run in found:
        assert_executed_once(run)
    leaves = [leaves_of(engine_yaml(run)) for run in found]
    points = {(y["grpo.seed"], y["policy.megatron_cfg.optimizer.lr"]) for y in leaves}
    assert points == {(seed, lr) for seed in (1, 2) for lr in (1e-6, 5e-6, 1e-5)}
    differ = {key for y in leaves for key in y if y[key] != leaves[0][key]}
    told = {key for key in differ if key.startswith("logger.wandb.config.nano_exp.")}  # of the run, its jobs and hosts
    assert {"logger.wandb.config.nano_exp.run", "logger.wandb.config.nano_exp.axes.grpo.seed"} <= told
    assert differ - told - {"checkpointing.checkpoint_must_save_by"} == {
        "grpo.seed",
        "data.train.seed",
        "policy.megatron_cfg.optimizer.lr",
        "policy.megatron_cfg.optimizer.min_lr",
        "policy.megatron_cfg.scheduler.lr_warmup_init",
        "checkpointing.checkpoint_dir",
        "logger.log_dir",
        "logger.wandb.id",
        "logger.wandb.name",
    }
    assert len({y["checkpointing.checkpoint_dir"] for y in leaves}) == 6


def test_points_of_two_shapes_are_one_array_each(lab: Lab) -> None:
    lab.launch(*NANO_12B, "cluster=1n8g,2n8g", "grpo.seed=1,2", HOLD)
    lines = lab.queued()
    assert sorted(line.split(" ", 1)[0].split("_")[1] for line in lines) == ["[0-1%2]", "[0-1%2]"]
    shapes = {}
    for run in lab.runs():
        array = lab.job(run).split("_")[0]
        nodes = lab.cluster.job(array)["NumNodes"].split("-")[0]
        assert nodes == str(at(run.config(), "cluster.num_nodes"))
        shapes.setdefault(array, []).append(at(run.config(), "grpo.seed"))
    assert sorted(sorted(seeds) for seeds in shapes.values()) == [[1, 2], [1, 2]]


def test_a_dry_run_shows_the_script_that_is_then_sent_and_leaves_nothing(lab: Lab) -> None:
    wish = (*SMALL, "grpo.seed=1,2", HOLD)
    shown = lab.launch(*wish, "dry_run=true").text
    assert list(lab.folder.iterdir()) == []
    assert lab.cluster.run("squeue", "-h", "-o%j").stdout.count("nx-") == 0
    lab.launch(*wish)
    launch = lab.launches()[0]
    sent = (launch / "array-0.sbatch").read_text()
    shown_id = next(word for line in shown.splitlines() for word in line.split("=") if word.startswith("nx-"))
    assert sent in shown.replace(shown_id.removeprefix("nx-").split(".")[0], launch.name)


# --- what was submitted is what runs --------------------------------------------------------------------------------


def test_editing_conf_and_code_while_a_job_is_pending_changes_nothing_in_it(
    minicluster: MiniCluster, tmp_path: Path, lab: Lab
) -> None:
    copy = tmp_path / "copy"
    for name in ("conf", "nano_exp"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "launch.py", copy)
    lab.root = copy
    lab.launch(*SMALL, HOLD, "hydra.launcher.timeout_min=7")
    run = lab.run()
    before = run.config()
    assert lab.scontrol(run)["TimeLimit"] == "00:07:00"

    # Whatever of the edited code or config was used would show: the one cannot be imported, the other cannot compose.
    init = copy / "nano_exp" / "__init__.py"
    working = init.read_text()
    init.write_text("raise RuntimeError('the edited code was run')\n")
    base = copy / "conf" / "nemo_rl" / "v0_7" / "base" / "grpo_math_1B.yaml"
    text = base.read_text()
    assert "num_prompts_per_step: 32" in text
    base.write_text(text.replace("num_prompts_per_step: 32", "num_prompts_per_step: 16"))
    assert "the edited code was run" in lab.launch(*SMALL, code=1).text

    lab.cluster.run("scontrol", "release", lab.job(run))
    lab.wait_ended()
    assert_executed_once(run)
    assert runs.load(run.dir).config() == before
    given = engine_yaml(run)
    deadline = at(given, "checkpointing.checkpoint_must_save_by")
    assert "00:00:03:00" <= deadline <= "00:00:03:30"  # half of what was left of seven minutes
    given["checkpointing"]["checkpoint_must_save_by"] = before["checkpointing"]["checkpoint_must_save_by"]
    for key, value in trackers.overlay(runs.load(run.dir), before).items():  # what W&B is told of the run
        dotted.set_dotted(before, key, value)
    assert given == {key: value for key, value in before.items() if key not in LAUNCHER_KEYS}
    assert given["grpo"]["num_prompts_per_step"] == 32

    # The next launch sees the edit: it says what changed, and submits nothing for it.
    init.write_text(working)
    said = lab.launch(*SMALL, code=3).text
    assert "the same overrides gave another config before" in said
    assert re.search(r"grpo\.num_prompts_per_step +32 +16", said), said
    assert [r.id for r in lab.runs()] == [run.id]
    assert lab.queued() == []


def test_another_commit_of_the_engine_stops_the_attempt_or_is_said(lab: Lab) -> None:
    checkout = lab.folder / "RL"
    shutil.copytree(STANDIN, checkout, ignore=shutil.ignore_patterns("__pycache__"))

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        return lab.cluster.run("git", "-C", str(checkout), *who, *arguments).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=one")
    one = git("rev-parse", "HEAD")
    wish = (*SMALL, f"site.checkout={checkout}", HOLD)
    started = [
        lab.start(*wish, "grpo.seed=1"),
        lab.start(*wish, "grpo.seed=2", "site.changed_checkout=continue"),
    ]
    for launcher in started:
        launcher.said()
    git("commit", "--quiet", "--allow-empty", "--message=two")
    two = git("rev-parse", "HEAD")
    for run in lab.runs():
        assert run.record["checkout_commit"] == one
        lab.cluster.run("scontrol", "release", lab.job(run))
    lab.wait_ended()
    stopped, went_on = lab.run(grpo__seed=1), lab.run(grpo__seed=2)
    assert (kinds(stopped), kinds(went_on)) == (["failed"], ["done"])
    for run in (stopped, went_on):
        said = (run.dir / "attempts" / "1" / "attempt.log").read_text()
        assert one in said and two in said
    assert f"checkout {one}" in (stopped.dir / "attempts" / "1" / "attempt.log").read_text()
    assert not (stopped.dir / "attempts" / "1" / "stdout.log").exists()  # the engine was not started


def test_variables_of_the_launchers_own_job_and_of_sbatch_do_not_reach_the_runs(lab: Lab) -> None:
    """Launched from inside an array task, by somebody with defaults of their own for sbatch and squeue."""
    lab.launch(
        *SMALL,
        HOLD,
        SLURM_ARRAY_JOB_ID="77",
        SLURM_ARRAY_TASK_ID="3",
        SLURM_RESTART_COUNT="2",
        SBATCH_JOB_NAME="theirs",
        SBATCH_TIMELIMIT="1",
    )
    run = lab.run()
    job = lab.scontrol(run)
    assert job["JobName"] == f"nx-{run.record['launch']}.0-nano_12b"
    assert job["TimeLimit"] == "04:00:00"
    hiding = {"SQUEUE_STATES": "RUNNING", "SQUEUE_NAMES": "theirs", "SLURM_TIME_FORMAT": "relative"}
    assert lab.status(**hiding)[run.id]["state"] == "pending"
    assert "1 pending" in lab.launch(*SMALL, **hiding).text
    lab.cluster.run("scontrol", "release", lab.job(run))
    lab.wait_ended()
    assert_executed_once(run)


# --- waiting, the embedded engine -----------------------------------------------------------------------------------

TINY = (
    "model=nano_tiny",
    "cluster=1n8g",
    "grpo.max_num_steps=2",
    "grpo.num_prompts_per_step=2",
    "grpo.num_generations_per_prompt=4",
    "grpo.val_at_start=false",
    "grpo.val_period=0",
    "engine.warm_start.steps=0",
)


def test_the_embedded_engine_refuses_an_interpreter_that_is_not_there_at_launch(lab: Lab) -> None:
    said = lab.launch(*TINY, "site.python=venv/bin/python", code=2).text
    assert f"site.python={lab.folder}/venv/bin/python" in said
    assert not lab.results.exists()


def test_wait_says_how_it_ended_and_the_embedded_engine_runs_on_slurm(lab: Lab) -> None:
    tiny = lab.start(*TINY, "wait=true")
    failing = lab.start(*SMALL, "wait=true", setting("FAIL_AT_STEP", 2), setting("STEP_SECONDS", 0.2))
    said = failing.said(1)
    run = lab.run(model__name="nano_12b")
    assert kinds(run) == ["failed"]
    assert f"{run.id}: failed" in said.text
    assert "stderr.log" in said.text
    assert "stand-in fault at step 2" in (run.dir / "attempts" / "1" / "stderr.log").read_text()
    assert lab.status()[run.id]["state"] == "failed"

    said = tiny.said(0)
    run = lab.run(model__name="nano_tiny")
    assert_executed_once(run, steps=2)
    assert f"{run.id}: done" in said.text
    assert lab.scontrol(run)["TresPerNode"] == "gres:gpu:8"
    assert at(engine_yaml(run), "checkpointing.checkpoint_must_save_by") is not None


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words", "fix"),
    [
        ("site.partition=nowhere", "invalid partition specified: nowhere", "site.partition="),
        ("site.account=nobodys", "Invalid account or account/partition combination", "site.account="),
        ("site.qos=none_such", "Invalid qos", "site.qos="),
        ("cluster.gpus_per_node=9", "Requested node configuration is not available", "cluster="),
    ],
)
def test_slurms_refusal_is_shown_and_leaves_no_run(lab: Lab, override: str, words: str, fix: str) -> None:
    """Without preflight's word on the place, which would refuse it before sbatch is asked."""
    said = lab.launch(*SMALL, override, "grpo.seed=1,2", "ignore=[layout_divides_gpus,cpus_for_ray,place]", code=3)
    print(f"{override}: refused after {said.seconds:.2f} s, start of Python included")
    assert words in said.text
    assert re.search(rf"fix: .*{re.escape(fix)}", said.text), said.text
    assert "submitted as launch" not in said.text
    assert lab.runs() == []
    assert lab.launches() == []
    assert lab.queued() == []


def test_a_refused_second_try_of_a_run_keeps_the_run(lab: Lab) -> None:
    lab.launch(*SMALL, setting("FAIL_AT_STEP", 2))
    lab.wait_ended()
    run = lab.run()
    said = lab.launch(*SMALL, "site.partition=nowhere", code=3).text
    assert "invalid partition specified: nowhere" in said
    assert lab.status()[run.id]["state"] == "failed"
    assert checkpoints(run) == [1]
    lab.launch(*SMALL)  # its place is the new launch's: there is no fault any more
    lab.wait_ended(attempt=2)
    assert kinds(run) == ["failed", "done"]
    assert train_steps(run) == [1, 2, 3]


def test_without_sbatch_a_launch_says_so_within_a_second_or_so(lab: Lab) -> None:
    bare = lab.folder / "bin"
    bare.mkdir()
    (bare / "git").symlink_to(shutil.which("git") or "/usr/bin/git")
    said = lab.launch(*SMALL, code=2, PATH=str(bare))
    print(f"refused after {said.seconds:.2f} s, start of Python included")
    assert "no sbatch on PATH" in said.text
    assert not lab.results.exists()


def test_an_unwritable_results_folder_is_refused_before_slurm_is_asked(lab: Lab) -> None:
    (lab.folder / "file").write_text("")
    said = lab.launch(*SMALL, "run.results=file/results", code=2)
    assert "cannot write" in said.text and "run.results=" in said.text
    assert lab.cluster.run("squeue", "-h", "-o%j").stdout.count("nx-") == 0


def test_status_needs_no_accounting(lab: Lab) -> None:
    lab.launch(*SMALL)
    lab.wait_ended()
    broken = lab.with_command("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    run = lab.run()
    assert lab.status(**broken)[run.id]["state"] == "done"
    assert "nothing to submit" in lab.launch(*SMALL, **broken).text


def test_a_results_folder_may_have_slurms_patterns_in_its_name(lab: Lab) -> None:
    """Slurm would put a job's number in place of `%j`, find no such folder, and end the job before its first line."""
    lab.folder = lab.folder / "a %j %A%x 100%"
    lab.folder.mkdir()
    lab.launch(*SMALL)
    lab.wait_ended()
    (run,) = lab.runs()
    assert_executed_once(run)
    (log,) = (lab.launches()[0] / "slurm").iterdir()
    assert "attempt 1 of run" in log.read_text()
