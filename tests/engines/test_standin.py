"""The stand-in checkout run through the engine nemo_rl: whole attempts, faults, interruption and resumption."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from nemo_rl_case import STANDIN, float32, followed, logged, make_config, make_context, put, run, start
from pace import limit, paced

from nano_exp.engines.nemo_rl import driver_env, engine, stdout


@pytest.fixture(autouse=True)
def no_ray_folders_left(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The attempt removes Command.scratch; here the folders go where pytest's own go."""
    short = tmp_path_factory.mktemp("r")
    monkeypatch.setattr(driver_env, "_ray_tmpdir", lambda ctx, base, named: short)
    monkeypatch.setattr(driver_env, "RAY_TMPDIR_MAX", 200)


def checkpoints(tmp: Path) -> list[int]:
    return sorted(int(p.name.partition("_")[2]) for p in (tmp / "checkpoints").glob("step_*"))


def standin_env(config: dict, **values: object) -> dict:
    put(config, "site.env", config["site"]["env"] | {f"STANDIN_{k}": v for k, v in values.items()})
    return config


@pytest.mark.parametrize("gym", [True, False])
def test_a_whole_run_is_done_and_its_rows_are_what_it_logged(tmp_path: Path, gym: bool) -> None:
    config = make_config(tmp_path, gym=gym, grpo__val_at_end=True)
    code, out, err = run(config, tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith("This is a STAND-IN for NeMo RL")
    assert checkpoints(tmp_path) == [3, 6, 8]
    last = engine.last_step(config, make_context(config, tmp_path))
    assert engine.end_of(config, code, last, 8, out.splitlines()) == "done"

    rows = followed(config, tmp_path, out)
    assert [r["step"] for r in rows] == list(range(9))
    assert [r["step"] for r in rows if "validation/accuracy" in r] == [0, 3, 6, 8]
    by_step = {row["step"]: row for row in rows}
    for (step, _), truth in logged(tmp_path).items():
        assert {name: by_step[step][name] for name in truth} == float32(truth)
    assert all(r["timing/train/total_step_time"] > 0 for r in rows if "train/loss" in r)


def test_it_prints_its_whole_config(tmp_path: Path) -> None:
    config = make_config(tmp_path, grpo__max_num_steps=1, env__nemo_gym={"config_paths": ["a-rather-rare-word.yaml"]})
    assert "a-rather-rare-word.yaml" in run(config, tmp_path)[1]


def test_a_run_ends_with_its_last_epoch(tmp_path: Path) -> None:
    config = standin_env(make_config(tmp_path, grpo__max_num_epochs=2, grpo__max_num_steps=1000), STEPS_PER_EPOCH=4)
    code, out, _ = run(config, tmp_path)
    last = engine.last_step(config, make_context(config, tmp_path))
    assert (code, last, stdout.read(out.splitlines()).notice) == (0, 8, None)
    assert [r["step"] for r in followed(config, tmp_path, out) if "train/loss" in r] == list(range(1, 9))
    assert engine.end_of(config, code, last, 8, out.splitlines()) == "done"
    code, out, _ = run(config, tmp_path, number=2)
    assert engine.end_of(config, code, last, 8, out.splitlines()) == "done"
    assert followed(config, tmp_path, out, resumes_from=last) == []  # its set-up, logged again as step 0, is no row


def test_killed_at_any_moment_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    changes = {"grpo__max_num_epochs": 3, "grpo__max_num_steps": 11, "grpo__val_at_end": True}
    assert run(standin_env(make_config(whole, **changes), STEPS_PER_EPOCH=5), whole)[0] == 0

    config = standin_env(make_config(broken, **changes), STEPS_PER_EPOCH=5, STEP_SECONDS=0.1)
    merged: dict[int, dict] = {}  # the store's rows: of a step that ran twice, the later attempt's counts

    def take(printed: list[str], resumed: int) -> None:
        for row in followed(config, broken, "".join(printed), resumed):
            merged[row["step"]] = row

    last = 0
    for number, stop_at in enumerate(("Saving checkpoint for step 3", "Step 3/5", "Saving checkpoint for step 9"), 1):
        process = start(engine.command(config, make_context(config, broken, number)))
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if stop_at in line:
                break
        process.send_signal(signal.SIGKILL)
        take([*printed, *process.stdout.readlines()], last)
        assert process.wait() == -signal.SIGKILL
        last = engine.last_step(config, make_context(config, broken, number))
        assert engine.end_of(config, -9, last) == "failed"
    code, out, _ = run(config, broken, 4)
    take(out.splitlines(keepends=True), last)
    assert code == 0
    assert logged(broken) == logged(whole)
    for (step, _), truth in logged(whole).items():
        assert {name: merged[step][name] for name in truth} == float32(truth)
    assert sorted(merged) == list(range(12))


def test_sigterm_saves_nothing(tmp_path: Path) -> None:
    config = standin_env(make_config(tmp_path, grpo__max_num_steps=1000), STEP_SECONDS=0.2)
    process = start(engine.command(config, make_context(config, tmp_path)))
    assert process.stdout is not None
    next(line for line in process.stdout if "Step 2/" in line)
    process.terminate()
    process.communicate(timeout=limit(10))
    assert process.returncode == -signal.SIGTERM and checkpoints(tmp_path) == []
    assert engine.end_of(config, process.returncode, 0, asked_to_stop=True) == "stopped"


def test_the_allocations_end_saves_and_stops(tmp_path: Path) -> None:
    config = standin_env(
        make_config(tmp_path, grpo__max_num_steps=1000, checkpointing__save_period=1000),
        STEP_SECONDS=paced(0.1),
        STEPS_PER_EPOCH=1000,
    )
    begun = time.time()
    code, out, _ = run(config, tmp_path, deadline=begun + limit(6))
    assert code == 0 and time.time() < begun + limit(6)
    last = engine.last_step(config, make_context(config, tmp_path))
    assert last > 3 and checkpoints(tmp_path) == [last]
    assert engine.end_of(config, code, last, last, out.splitlines()) == "stopped"
    put(config, "grpo.max_num_steps", last + 2)
    assert run(config, tmp_path, number=2)[0] == 0
    assert checkpoints(tmp_path) == [last, last + 2]


def test_keep_top_k_keeps_the_best_and_the_newest(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        checkpointing__save_period=1,
        checkpointing__keep_top_k=2,
        checkpointing__metric_name="train:loss",
        checkpointing__higher_is_better=True,  # the loss falls: the best are the first
    )
    assert run(config, tmp_path)[0] == 0
    loss = {step: row["train/loss"] for (step, kind), row in logged(tmp_path).items() if kind == "train"}
    best = sorted(loss, key=lambda step: loss[step], reverse=True)[:2]
    assert checkpoints(tmp_path) == sorted({*best, 8})
    info = json.loads((tmp_path / "checkpoints" / "step_8" / "training_info.json").read_text())
    assert (info["total_steps"], info["train:loss"]) == (8, loss[8])


def test_log_dir_is_new_at_every_start(tmp_path: Path) -> None:
    config = make_config(tmp_path, grpo__max_num_steps=1)
    for number in (1, 2):
        run(config, tmp_path, number)
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["exp_001", "exp_002"]


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("error", 1, "RuntimeError: stand-in fault at step 5"),
        ("oom", 1, "OutOfMemoryError: CUDA out of memory"),
        ("kill", -9, ""),
        ("async", 0, ""),
    ],
)
def test_faults(tmp_path: Path, fault: str, code: int, said: str) -> None:
    config = standin_env(make_config(tmp_path), FAIL_AT_STEP=5, FAULT=fault, FAIL_ONCE=1)
    got, out, err = run(config, tmp_path)
    assert got == code and said in err
    last = engine.last_step(config, make_context(config, tmp_path))
    assert (last, engine.end_of(config, got, last, 4, out.splitlines())) == (3, "failed")
    got, out, err = run(config, tmp_path, number=2)
    assert (got, err, checkpoints(tmp_path)) == (0, "", [3, 6, 8])


def test_a_nan_stays(tmp_path: Path) -> None:
    config = standin_env(make_config(tmp_path), FAIL_AT_STEP=5, FAULT="nan")
    code, out, _ = run(config, tmp_path)
    loss = [row["train/loss"] for row in followed(config, tmp_path, out) if "train/loss" in row]
    assert code == 0 and [value != value for value in loss] == [False] * 4 + [True] * 4


def test_a_hang_hangs(tmp_path: Path) -> None:
    config = standin_env(make_config(tmp_path), FAIL_AT_STEP=1, FAULT="hang")
    process = start(engine.command(config, make_context(config, tmp_path)))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.kill()
    out, _ = process.communicate()
    assert "Step 1/8" in out and "Training Results" not in out


def required() -> list[str]:
    keys = yaml.safe_load((STANDIN / "required.yaml").read_text())
    return keys["always"] + keys["megatron"] + keys["gym_script"]


def test_every_required_key_is_missed(tmp_path: Path) -> None:
    code = (
        "import sys, copy, yaml; sys.path.insert(0, sys.argv[1]); import stand_in\n"
        "config = stand_in.load(stand_in.Path(sys.argv[2])); stand_in.verify(config, True)\n"
        "for path in yaml.safe_load(sys.stdin):\n"
        "    broken = copy.deepcopy(config); parent, _, leaf = path.rpartition('.')\n"
        "    del (stand_in.read(broken, parent) if parent else broken)[leaf]\n"
        "    try: stand_in.verify(broken, True); print(path, 'passed')\n"
        "    except KeyError as error: print(path, error.args[0])\n"
    )
    config = make_config(tmp_path)
    ctx = make_context(config, tmp_path)
    found = subprocess.run(
        [sys.executable, "-c", code, str(STANDIN), str(ctx.config_path)],
        input=yaml.safe_dump(required()),
        capture_output=True,
        text=True,
        env={"TORCH_CUDA_ARCH_LIST": "9.0"},
    )
    assert found.stderr == ""
    assert found.stdout.splitlines() == [f"{path} {path}" for path in required()]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("checkpointing.keep_top_k", None, "KeyError: 'checkpointing.keep_top_k'"),
        ("grpo.seed", "${oc.env:SEED}", "ValueError: grpo.seed is not resolved"),
        ("policy.model_name", "???", "ValueError: policy.model_name is not resolved"),
        ("grpo.max_val_samples", 64, "ValueError: grpo.max_val_samples must be null"),
        ("env.should_use_nemo_gym", False, "AssertionError: env.should_use_nemo_gym"),
        ("policy.dtensor_cfg.enabled", True, "AssertionError: exactly one training backend"),
        (
            "policy.generation.vllm_cfg.http_server_serving_chat_kwargs",
            {"tool_parser": "nemotron_json"},
            "invalid tool call parser: nemotron_json",
        ),
        (
            "policy.generation.vllm_cfg.tool_parser_plugin",
            "/nowhere/parser.py",
            "FileNotFoundError: /nowhere/parser.py",
        ),
    ],
)
def test_what_the_real_script_refuses(tmp_path: Path, path: str, value: object, said: str) -> None:
    config = make_config(tmp_path)
    ctx = make_context(config, tmp_path)
    command = engine.command(config, ctx)
    flat = yaml.safe_load(ctx.config_path.read_text())
    if value is None:
        section, _, leaf = path.partition(".")
        del flat[section][leaf]
    else:
        put(flat, path, value)
    ctx.config_path.write_text(yaml.safe_dump(flat))
    process = start(command)
    _, err = process.communicate(timeout=limit(20))
    assert process.returncode == 1 and said in err and "Traceback" in err


def test_every_file_says_that_it_is_a_stand_in() -> None:
    files = [p for p in STANDIN.rglob("*") if p.suffix in {".py", ".md", ".toml"}]
    assert len(files) >= 5
    for file in files:
        assert re.search(r"stand-in", file.read_text()[:200], re.IGNORECASE), file
