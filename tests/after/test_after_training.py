"""After training: converters and evaluations of NeMo RL's versions, what is refused, and the jobs that wait."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from core_case import TINY, frozen

from nano_exp.after import follow, jobs
from nano_exp.compose import origins as launch_origins
from nano_exp.dotted import Config
from nano_exp.engines import checkpoints, embedded
from nano_exp.engines.nemo_rl import converters, engine, weights
from nano_exp.engines.origin import FORK, INIT, Origin
from nano_exp.errors import UserError
from nano_exp.preflight import RULES
from nano_exp.preflight.run import findings
from nano_exp.preflight.view import View

OVERRIDE = weights.OVERRIDE
TWELVE = ("model=nano_12b", "cluster=1n8g")  # Megatron
THIRTY = ("model=nano_30b", "cluster=1n8g")  # DTensor


@cache
def config(row: tuple[str, ...]) -> dict[str, Any]:
    return frozen(Path("/launch"), *row).config


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """A checkpoint's folder with the names that NeMo RL gives, and a checkout with its scripts."""
    for name in (converters.DCP, converters.MEGATRON, converters.BENCHMARKS):
        (tmp_path / "RL" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "RL" / name).touch()
    (tmp_path / "python").touch(mode=0o755)
    path = tmp_path / "run" / "checkpoints" / "step_7"
    (path / "policy" / "weights").mkdir(parents=True)
    (path / checkpoints.INFO).write_text("{}")
    return path


def of(step: Path, row: tuple[str, ...], version: str = "v0.7.0", **changes: Any) -> dict[str, Any]:
    place = {"site.checkout": str(step.parents[2] / "RL"), "site.python": str(step.parents[2] / "python")}
    typed = {key.replace("__", "."): value for key, value in changes.items()}
    return Config(config(row)).changed({**place, "nemo_rl.version": version, **typed})


def argv(command: Any) -> str:
    return " ".join(command.argv)


def test_each_backend_has_its_converter(step: Path, tmp_path: Path) -> None:
    megatron = argv(engine.export(of(step, TWELVE), step, tmp_path / "out"))
    assert f"{converters.MEGATRON} --config {step}/config.yaml --hf-ckpt-path {tmp_path}/out" in megatron
    assert megatron.endswith(f"--megatron-ckpt-path {step}/policy/weights/iter_0000000")
    saved = {"checkpointing__model_save_format": "torch_save", "policy__dtensor_cfg___v2": True}
    new = argv(engine.export(of(step, THIRTY, **saved), step, tmp_path / "out"))
    assert new.endswith(f"--dcp-ckpt-path {step}/policy/weights") and converters.DCP in new
    assert argv(engine.export(of(step, THIRTY, "v0.5.0", **saved), step, tmp_path / "out")).endswith("/weights/model")


def test_without_a_converter_it_is_refused_before_and_after_training(step: Path, tmp_path: Path) -> None:
    sharded = of(step, THIRTY, policy__dtensor_cfg___v2=True, after_training=["export"])
    with pytest.raises(UserError, match="save_consolidated=true"):
        engine.export(sharded, step, tmp_path / "out")

    def rules(changed: dict[str, Any]) -> set[str]:
        return {finding.rule for finding in findings(View(changed), RULES.values())}

    assert "checkpoints_are_exportable" in rules(sharded)
    whole = Config(sharded).changed({"checkpointing.save_consolidated": True})
    assert "checkpoints_are_exportable" not in rules(whole)
    tree = step / weights.CONSOLIDATED
    tree.mkdir(parents=True)
    (tree / "config.json").write_text("{}")
    assert engine.export(whole, step, tmp_path / "out").argv[0] == "cp"


def test_benchmarks_and_trajectories_are_of_exported_weights(step: Path, tmp_path: Path) -> None:
    gym = of(step, ("model=nano_9b", "cluster=1n8g"))
    with pytest.raises(UserError, match="nano-exp export run --step 7"):
        engine.evaluate(gym, step, "math500", tmp_path / "out")
    out = tmp_path / "run" / "export" / "step_7"
    out.mkdir(parents=True)
    (out / "config.json").write_text("{}")
    words = argv(engine.evaluate(gym, step, "math500", tmp_path / "out"))
    assert f"generation.model_name={out} data.dataset_name=math500 eval.save_path={tmp_path}/out" in words
    changed, ctx = converters.trajectories(gym, step, "", tmp_path / "out")
    assert Config(changed).get("env.nemo_gym.is_trajectory_collection") is True
    assert yaml.safe_load(ctx.config_path.read_text())["policy"]["model_name"] == str(out)
    with pytest.raises(UserError, match="math500"):
        engine.evaluate(of(step, TWELVE), step, "", tmp_path / "out")


def test_scores_are_read_from_what_nemo_rl_leaves(tmp_path: Path) -> None:
    assert engine.scores({}, tmp_path, ["score=0.2500 (10.0/40)"]) == {"accuracy": 0.25, "samples": 40}
    rows = "".join(json.dumps({"reward": value}) + "\n" for value in (1.0, 0.0, 1.0, 1.0))
    (tmp_path / "exp_001").mkdir()
    (tmp_path / "exp_001" / converters.TRAJECTORIES).write_text(rows)
    assert engine.scores({}, tmp_path, []) == {"accuracy": 0.75, "samples": 4}
    with pytest.raises(ValueError, match="no score"):
        engine.scores({}, tmp_path / "nowhere", ["ended"])


def test_nemo_rl_starts_from_a_folder_and_megatron_from_its_own_checkpoint(step: Path) -> None:
    origin = Origin(INIT, "name/run", 7, step)
    twelve = of(step, TWELVE)
    with pytest.raises(UserError, match="nano-exp export name/run --step 7"):
        weights.fits(twelve, origin, twelve)
    with pytest.raises(UserError, match=r"policy\.model_name is"):
        weights.fits(twelve, origin, of(step, THIRTY))
    (step / weights.ITERATION).mkdir()
    (step / weights.ITERATION / "run_config.yaml").touch()
    weights.fits(twelve, origin, twelve)
    bridge = {"path": str(step / weights.ITERATION), "format": "megatron_bridge"}
    assert weights.initial({**twelve, INIT: origin.frozen}) == {"policy.pretrained_checkpoint": bridge}
    with pytest.raises(UserError, match="nano-exp export"):  # and not from the model's own weights, without a word
        weights.initial({**of(step, TWELVE, "v0.6.0"), INIT: origin.frozen})
    out = step.parents[1] / "export" / "step_7"
    out.mkdir(parents=True)
    (out / "config.json").write_text("{}")
    assert weights.initial({**of(step, THIRTY), INIT: origin.frozen}) == {"policy.model_name": str(out)}


def test_weights_of_checkpoints_that_lie_elsewhere_are_exported_beside_them(step: Path, tmp_path: Path) -> None:
    """checkpointing.checkpoint_dir=/elsewhere: /elsewhere/NAME/RUN/step_7, and weights of two runs do not meet."""
    there = tmp_path / "elsewhere" / "name" / "r0123456789" / "step_7"
    assert checkpoints.exported(step) == step.parents[1] / "export" / "step_7"
    out = checkpoints.exported(there)
    assert out == there.parent / "export" / "step_7"
    out.mkdir(parents=True)
    (out / "config.json").write_text("{}")
    origin = Origin(INIT, "name/r0123456789", 7, there)
    assert weights.initial({**of(step, THIRTY), INIT: origin.frozen}) == {"policy.model_name": str(out)}
    twelve = of(step, TWELVE)
    assert f"generation.model_name={out}" in argv(engine.evaluate(twelve, there, "math500", tmp_path / "scores"))


def test_supervised_weights_of_nemo_rls_own_script_are_a_start(step: Path) -> None:
    """Its checkpoint has the master config of examples/run_sft.py, without policy.hf_config_overrides."""
    thirty = of(step, THIRTY)
    source = {"sft": {"max_num_steps": 60}, "policy": {"model_name": thirty["policy"]["model_name"]}}
    source["policy"]["tokenizer"] = {"name": "any"}
    with pytest.raises(UserError, match="no Hugging Face weights"):
        weights.fits(thirty, Origin(INIT, None, 7, step), source)
    tree = step / weights.CONSOLIDATED
    tree.mkdir(parents=True)
    (tree / "config.json").write_text("{}")
    weights.fits(thirty, Origin(INIT, None, 7, step), source)


@pytest.mark.parametrize(
    ("row", "changes", "why"),
    [
        (THIRTY, {"policy.optimizer.kwargs.lr": 1e-7}, "without a word"),
        (TWELVE, {"policy.megatron_cfg.optimizer.lr": 1e-7, OVERRIDE: False}, "override_opt_param_scheduler=true too"),
        (TWELVE, {"policy.megatron_cfg.optimizer.adam_beta1": 0.5, OVERRIDE: True}, "without a word"),
        (TWELVE, {"grpo.num_prompts_per_step": 3}, "place in the data"),
        (TWELVE, {"grpo.max_num_steps": 7}, "no step left"),
        (TWELVE, {}, "would do again"),
        (TWELVE, {"checkpointing.save_period": 3, OVERRIDE: False}, ""),
        (TWELVE, {"policy.megatron_cfg.optimizer.lr": 1e-7, OVERRIDE: True}, ""),
    ],
)
def test_a_fork_changes_only_what_its_checkpoint_does_not_bring_back(
    step: Path, row: tuple[str, ...], changes: dict[str, Any], why: str
) -> None:
    source, origin = of(step, row, grpo__max_num_steps=20), Origin(FORK, "name/run", 7, step)
    fork = Config(source).changed(changes)
    if not why:
        return weights.fits(fork, origin, source)
    with pytest.raises(UserError, match=why):
        weights.fits(fork, origin, source)


def test_a_source_is_found_by_run_and_step_and_makes_another_run(tmp_path: Path) -> None:
    place = f"run.results={tmp_path}"
    plain = frozen(tmp_path, *TINY, place)
    assert INIT not in plain.config and FORK not in plain.config
    run_dir = tmp_path / "tiny" / "r0123456789"
    path = run_dir / "checkpoints" / "step_7"
    (path / "policy").mkdir(parents=True)
    for name, text in ((checkpoints.INFO, '{"val:accuracy": 0.5}'), ("manifest.json", '{"files": {}}')):
        (path / name).write_text(text)
    (path / "policy" / "weights.pt").touch()
    saved = Config(plain.config).changed({"checkpointing.checkpoint_dir": str(run_dir / "checkpoints")})
    for folder in (run_dir, path):
        (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    (run_dir / "run.json").write_text(json.dumps({"digest": "d", "overrides": []}))
    started = frozen(tmp_path, *TINY, place, "init_from=r0123456789@best")
    assert started.config[INIT] == {"run": "tiny/r0123456789", "step": 7, "path": str(path)}
    assert started.digest != plain.digest
    assert embedded.initial(started.config) == {"engine.init_from": str(path)}
    assert frozen(tmp_path, *TINY, place, f"init_from={path}").config[INIT]["folder"] == str(path)
    for word, found in (("r0123456789@8", "no such checkpoint"), ("nope", "no run and no name"), ("./no", "no folder")):
        with pytest.raises(UserError, match=found):
            launch_origins.find(INIT, word, tmp_path, tmp_path)
    with pytest.raises(UserError, match="hidden_size is 64 there, and 32 here"):
        frozen(tmp_path, *TINY, place, "init_from=r0123456789", "policy.hf_config_overrides.hidden_size=32")


@pytest.mark.parametrize("word", ["exports", "export:worst", "eval:", "both"])
def test_words_that_ask_for_nothing_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=f"after_training={word}"):
        follow.require(["export", word])


def test_its_job_is_the_launches_own_script_with_another_program() -> None:
    text = "#SBATCH --nodes=2\nexec env A=1 python -m nano_exp.job /launch --array 0\n"
    made = jobs.script(text, ["export", "eval:x"])
    assert made == "#SBATCH --nodes=2\nexec env A=1 python -m nano_exp.after /launch --array 0 export eval:x\n"
