"""NeMo RL's own setup, training loops, CheckpointManager and Logger on this CPU, started by attempts of ours.

The policy, its generation, the data and the environment are tiny ones (loops/tiny.py); all else is the checkout's. Runs
where NANO_EXP_NEMO_RL names a checkout (v0.5.0, v0.6.0, v0.7.0 or main's commit), and torchdata is installed.
"""

from __future__ import annotations

import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from core_case import attempt, prepared
from test_real_logger import as_tensorboard_reads

from nano_exp import files
from nano_exp.nemo_rl import versions
from nano_exp.nemo_rl.checkout import read_checkout
from nano_exp.store import metrics_file, runs

HERE = Path(__file__).resolve().parent
LOOPS = HERE / "loops"
CHECKOUT = os.environ.get("NANO_EXP_NEMO_RL", "")
pytestmark = [
    pytest.mark.skipif(not CHECKOUT, reason="NANO_EXP_NEMO_RL names no NeMo RL checkout"),
    pytest.mark.skipif(not find_spec("torchdata"), reason="NeMo RL's data loader is missing: pip install torchdata"),
]

SCRIPT = """\
import sys

sys.path.insert(0, {loops!r})
import zygote

zygote.ask({socket!r})
"""
#: Four steps of two prompts, twice each; every second one is saved and validates.
SMALL = (
    *("grpo.num_prompts_per_step=2", "grpo.num_generations_per_prompt=2", "grpo.max_num_steps=4"),
    *("grpo.max_val_samples=4", "grpo.val_batch_size=4", "grpo.val_period=2", "grpo.val_at_start=true"),
    *("checkpointing.save_period=2", "data.num_workers=0", "logger.wandb_enabled=false", "logger.monitor_gpus=false"),
    *("cluster.gpus_per_node=8", "engine.ray_address=none"),
)


def option() -> str:
    said = read_checkout(Path(CHECKOUT))
    by_commit = {files.read_yaml(versions.FOLDER / f"{name}.yaml")["commit"]: name for name in versions.options()}
    return by_commit.get(said.commit) or versions.option(str(said.version))


NEWER = bool(CHECKOUT) and versions.order(versions.version_of(option())) >= (0, 8, 0)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout whose script is the real one's, forked from a process that has imported it."""
    folder, socket = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("s") / "s"
    (folder / "nemo_rl").symlink_to(Path(CHECKOUT).resolve() / "nemo_rl")
    (folder / "examples" / "nemo_gym").mkdir(parents=True)
    script = files.read_yaml(versions.FOLDER / f"{option()}.yaml")["scripts"]["grpo"]
    for name in (script, "examples/nemo_gym/run_grpo_nemo_gym.py"):
        (folder / name).write_text(SCRIPT.format(loops=str(LOOPS), socket=str(socket)))
    zygote = subprocess.Popen(
        [sys.executable, str(LOOPS / "zygote.py"), CHECKOUT, script, str(socket)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert zygote.stdout is not None
    assert "ready" in (line for line in map(str.strip, zygote.stdout)), "the checkout cannot be imported"
    yield folder
    zygote.kill()
    zygote.wait()


class Loop:
    """A launch of the real loop, and its attempts."""

    def __init__(self, folder: Path, checkout: Path, *overrides: str) -> None:
        version = versions.version_of(option())
        (checkout / ".git").mkdir(exist_ok=True)
        if "+" in version:
            (checkout / ".git" / "HEAD").write_text(str(read_checkout(Path(CHECKOUT)).commit))
        words = ["model=nano_12b", "cluster=1n8g", f"nemo_rl={option()}", *SMALL, *overrides]
        self.launch = prepared(folder, *words, f"site.checkout={checkout}", f"site.python={sys.executable}")
        self.run = self.launch.arrays[0].rows[0].dir
        self.said = ""

    def attempt(self, **env: str) -> dict[str, Any]:
        """One attempt; its end."""
        done = attempt(self.launch.dir, timeout=300, **{"TINY_ROLLOUT": "4", **env})
        last = runs.attempts(self.run)[-1]
        self.said = done.stdout + done.stderr + (last.dir / "stderr.log").read_text()[-3000:]
        assert last.end is not None, self.said
        return dict(last.end)

    def learned(self) -> dict[tuple[int, str], float]:
        """(step, metric) -> value, without times; fails where a step was logged twice."""
        found: dict[tuple[int, str], float] = {}
        for row in metrics_file.read(self.run):
            for name in row.keys() - {"step", "time"}:
                if not name.startswith(("timing/", "performance/")):
                    assert (row["step"], name) not in found
                    found[row["step"], name] = row[name]
        return found

    def steps(self) -> list[int]:
        return [row["step"] for row in metrics_file.read(self.run) if "train/reward" in row]

    def saved(self) -> list[str]:
        folder = self.run / "checkpoints"
        return sorted(path.name for path in folder.glob("*step_*")) if folder.is_dir() else []

    def assert_rows_are_the_events(self, exp: str = "exp_001", after: int = 0) -> None:
        """metrics.jsonl has what TensorBoard reads of an attempt's events, to the last bit, and nothing else."""
        rows = {row["step"]: row for row in metrics_file.read(self.run)}
        truth = as_tensorboard_reads(self.run / "logs" / exp / "tensorboard")
        for step in [step for step in truth if step > after or after == 0]:
            logged = {name: rows[step][name] for name in rows[step].keys() - {"step", "time", "nonfinite"}}
            assert {name: bits(value) for name, value in logged.items() if value is not None} == {
                name: value for name, value in truth[step].items() if math.isfinite(struct.unpack("<f", value)[0])
            }


def bits(value: float) -> bytes:
    return struct.pack("<f", value)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> dict[tuple[int, str], float]:
    loop = Loop(tmp_path_factory.mktemp("whole"), checkout)
    end = loop.attempt()
    assert (end["kind"], end["last_step"], end["exit_code"]) == ("done", 4, 0), loop.said
    assert loop.steps() == [1, 2, 3, 4]
    assert loop.saved() == ["step_2", "step_4"]
    loop.assert_rows_are_the_events()
    found = loop.learned()
    assert {step for step, name in found if name == "validation/accuracy"} == {0, 2, 4}
    return found


def test_a_whole_run_is_done_and_its_rows_are_its_events(uninterrupted: dict[tuple[int, str], float]) -> None:
    assert uninterrupted[4, "train/loss"] == pytest.approx(1 / 12)
    assert {"train/reward", "train/mean_gen_tokens_per_sample"} <= {name for _, name in uninterrupted}


def test_epochs_end_a_run(tmp_path: Path, checkout: Path) -> None:
    loop = Loop(tmp_path, checkout, "grpo.max_num_epochs=2", "grpo.max_num_steps=1000000")
    end = loop.attempt(TINY_PROMPTS="6")
    assert (end["kind"], end["last_step"], loop.steps()) == ("done", 6, [1, 2, 3, 4, 5, 6]), loop.said
    loop.assert_rows_are_the_events()


#: Where it is killed -> the step whose results are the last that were logged, and the checkpoints that are there then.
KILLED = {
    "setup:0": (0, []),
    "validation:0": (0, []),
    "generation:1": (0, []),
    "generation:3": (2, ["step_2"]),
    "logprobs:4": (3, ["step_2"]),
    "train:3": (2, ["step_2"]),
    "validation:2": (1, []),
    "save:2": (1, ["tmp_step_2"]),
    "save:4": (3, ["step_2", "tmp_step_4"]),
}


@pytest.mark.parametrize("where", KILLED)
def test_a_kill_in_any_phase_is_a_failure_and_the_next_attempt_learns_the_same(
    tmp_path: Path, checkout: Path, uninterrupted: dict[tuple[int, str], float], where: str
) -> None:
    logged, saved = KILLED[where]
    loop = Loop(tmp_path, checkout)
    end = loop.attempt(TINY_FAULT=f"kill:{where}")
    if NEWER and loop.saved() == ["tmp_step_2"]:  # main renames it in the background
        saved = ["tmp_step_2"]
    newest = 2 if "step_2" in saved else 0
    assert (end["kind"], end["exit_code"], end["last_step"]) == ("failed", 137, newest), loop.said
    assert loop.saved() == saved
    assert max(loop.steps(), default=0) == logged
    again = loop.attempt()
    assert (again["kind"], again["last_step"]) == ("done", 4), loop.said
    assert loop.learned() == uninterrupted
    assert loop.saved() == ["step_2", "step_4"], "what was torn is gone"


def test_a_validation_without_a_batch_stops_it_as_preflight_says(tmp_path: Path, checkout: Path) -> None:
    loop = Loop(tmp_path, checkout, "grpo.max_val_samples=3")
    assert (loop.attempt()["kind"], loop.steps()) == ("failed", [])
    assert "UnboundLocalError" in loop.said


def test_an_exception_is_a_failure_with_its_traceback(tmp_path: Path, checkout: Path) -> None:
    loop = Loop(tmp_path, checkout)
    end = loop.attempt(TINY_FAULT="error:train:2")
    assert (end["kind"], end["exit_code"]) == ("failed", 1)
    assert "a tiny fault in train at step 2" in loop.said
    assert loop.steps() == [1]


def test_a_loss_that_is_nan_is_said_and_the_run_is_done(tmp_path: Path, checkout: Path) -> None:
    loop = Loop(tmp_path, checkout)
    end = loop.attempt(TINY_FAULT="nan:train:3")
    assert end["kind"] == "done", loop.said
    assert end["why"] == "train/loss was not finite in step 3"
    assert [row["step"] for row in metrics_file.read(loop.run) if "train/loss" in row.get("nonfinite", ())] == [3]
    loop.assert_rows_are_the_events()


def test_a_time_out_saves_and_is_no_end_of_the_run(
    tmp_path: Path, checkout: Path, uninterrupted: dict[tuple[int, str], float]
) -> None:
    loop = Loop(tmp_path, checkout, "checkpointing.checkpoint_must_save_by=00:00:00:00")
    for step in (1, 2, 3):
        end = loop.attempt()
        assert (end["kind"], end["exit_code"], end["last_step"]) == ("stopped", 0, step), loop.said
    assert loop.attempt()["kind"] == "done"
    assert loop.learned() == uninterrupted


def test_dynamic_sampling_drops_batches_and_ends_with_its_epochs(tmp_path: Path, checkout: Path) -> None:
    """Every second prompt's answers are all right: a step takes two batches, so that an epoch has half of its steps."""
    words = ("grpo.use_dynamic_sampling=true", "grpo.max_num_steps=100", "grpo.max_num_epochs=1")
    loop = Loop(tmp_path, checkout, *words, "grpo.num_generations_per_prompt=16", "grpo.seed=1")
    end = loop.attempt(TINY_EASY="1", TINY_PROMPTS="16", TINY_ROLLOUT="32")
    assert end["kind"] == "done", loop.said
    steps = loop.steps()
    assert steps == list(range(1, len(steps) + 1)) and 0 < len(steps) < 8
    loop.assert_rows_are_the_events()


# --- asynchronous, with a Ray -----------------------------------------------------------------------------------------

ASYNC = (
    *("grpo.async_grpo.enabled=true", "policy.generation.colocated.enabled=false", "grpo.val_at_start=false"),
    *("policy.generation.colocated.resources.gpus_per_node=4", "policy.generation.vllm_cfg.async_engine=true"),
    *("loss_fn.use_importance_sampling_correction=true", "checkpointing.metric_name=null"),
)


def test_an_asynchronous_run_is_done_and_its_rows_are_its_events(tmp_path: Path, checkout: Path) -> None:
    loop = Loop(tmp_path, checkout, *ASYNC)
    end = loop.attempt(TINY_ASYNC="1", TINY_PROMPTS="32")
    assert (end["kind"], end["last_step"], loop.steps()) == ("done", 4, [1, 2, 3, 4]), loop.said
    loop.assert_rows_are_the_events()


# --- main alone -----------------------------------------------------------------------------------------------------

newer = pytest.mark.skipif(not NEWER, reason="newer than this checkout's version")
STOP = ("grpo.stop_at_validation_metric=accuracy",)


@newer
@pytest.mark.parametrize(("threshold", "last"), [("0.0", 0), ("0.26", 2)])
def test_an_early_stop_is_the_end_of_the_run(tmp_path: Path, checkout: Path, threshold: str, last: int) -> None:
    loop = Loop(tmp_path, checkout, *STOP, f"grpo.stop_at_validation_threshold={threshold}", "grpo.max_num_steps=40")
    end = loop.attempt()
    assert end["kind"] == "done", loop.said
    assert end["last_step"] == last or (last and end["last_step"] < 40)


@newer
def test_checkpoints_for_a_crash_come_beside_the_others(tmp_path: Path, checkout: Path) -> None:
    often = ("++checkpointing.ft_save_period=1", "++checkpointing.ft_keep_latest_k=2", "checkpointing.keep_top_k=1")
    loop = Loop(tmp_path, checkout, *often, "grpo.max_num_steps=5")
    end = loop.attempt(TINY_FAULT="kill:save:4")  # before it, the save of step 3 is waited for
    assert (end["kind"], end["last_step"]) == ("failed", 3), loop.said
    end = loop.attempt()
    assert (end["kind"], end["last_step"]) == ("done", 5), loop.said
    assert loop.saved() == ["step_4", "step_5"]


@newer
def test_a_kill_while_a_checkpoint_is_renamed_in_the_background_leaves_the_one_before(
    tmp_path: Path, checkout: Path, uninterrupted: dict[tuple[int, str], float]
) -> None:
    loop = Loop(tmp_path, checkout)
    end = loop.attempt(TINY_FAULT="kill:finalize:4")
    assert (end["kind"], end["last_step"], loop.saved()) == ("failed", 2, ["step_2", "tmp_step_4"]), loop.said
    assert loop.attempt()["kind"] == "done"
    assert loop.learned() == uninterrupted
