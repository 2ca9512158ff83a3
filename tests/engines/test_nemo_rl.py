"""The engine nemo_rl: refusals, overlay, environment, checkpoints and kinds of end, without starting anything."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nemo_rl_case import STANDIN, make_config, make_context, put

from nano_exp import engines
from nano_exp.engines import Context
from nano_exp.engines.nemo_rl import driver_env, engine
from nano_exp.errors import UserError
from nano_exp.nemo_rl import checkout as nemo_rl_checkout
from nano_exp.text import dd_hh_mm_ss

KWARGS = "policy__generation__vllm_cfg__http_server_serving_chat_kwargs"
PLUGIN = "policy.generation.vllm_cfg.tool_parser_plugin"


def test_engines_by_name() -> None:
    assert engines.get("nemo_rl") is engine
    with pytest.raises(UserError, match="nemorl") as caught:
        engines.get("nemorl")
    assert "engine=nemo_rl" in caught.value.fix


def test_the_engine_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'wandb', 'omegaconf'}"
    code = f"import sys, nano_exp.engines.nemo_rl.engine; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# check


def test_check_takes_the_stand_in(tmp_path: Path) -> None:
    engine.check(make_config(tmp_path))


def test_check_takes_several_nodes(tmp_path: Path) -> None:
    engine.check(make_config(tmp_path, cluster__num_nodes=2))


@pytest.mark.parametrize(
    ("change", "value", "found"),
    [
        ("site.checkout", None, "site.checkout=null"),
        ("site.checkout", "nowhere/RL", "site.checkout=nowhere/RL"),
        ("site.checkout", "/usr", "site.checkout=/usr"),
        ("site.python", "/nowhere/python", "site.python=/nowhere/python"),
        ("nemo_rl.version", "v0.6.0", "NeMo RL 0.7.0"),
    ],
)
def test_check_refuses(tmp_path: Path, change: str, value: str | None, found: str) -> None:
    config = make_config(tmp_path)
    put(config, change, value)
    with pytest.raises(UserError) as caught:
        engine.check(config)
    assert found in caught.value.found


def test_check_asks_for_uv_where_no_interpreter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, site__python=None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no `uv`"):
        engine.check(config)
    put(config, "site.setup", ["module load uv"])
    engine.check(config)
    put(config, "site.setup", [])
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    engine.check(config)
    command = engine.command(config, make_context(config, tmp_path))
    assert command.argv[:4] == [str(uv), "run", "python", "examples/nemo_gym/run_grpo_nemo_gym.py"]
    shutil.rmtree(command.env["RAY_TMPDIR"])


# A checkout's version and commit


def test_version_of_a_real_checkouts_layout(tmp_path: Path) -> None:
    (tmp_path / "nemo_rl").mkdir()
    (tmp_path / "nemo_rl" / "package_info.py").write_text("MAJOR = 0\nMINOR = 6\nPATCH = 2\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndynamic = ["version"]\n')
    assert nemo_rl_checkout.read_checkout(tmp_path) == nemo_rl_checkout.Checkout("0.6.2", None)


def test_commit_from_branch_packed_refs_worktree_and_detached_head(tmp_path: Path) -> None:
    def git(*args: str, at: Path) -> str:
        base = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(at)]
        return subprocess.run([*base, *args], check=True, capture_output=True, text=True).stdout.strip()

    repo, tree = tmp_path / "repo", tmp_path / "tree"
    repo.mkdir()
    git("init", "-q", at=repo)
    git("commit", "-q", "--allow-empty", "-m", "one", at=repo)
    commit = git("rev-parse", "HEAD", at=repo)
    git("worktree", "add", "-q", "-b", "other", str(tree), at=repo)
    assert [nemo_rl_checkout.read_checkout(p).commit for p in (repo, tree)] == [commit, commit]
    git("pack-refs", "--all", at=repo)
    assert [nemo_rl_checkout.read_checkout(p).commit for p in (repo, tree)] == [commit, commit]
    git("checkout", "-q", "--detach", at=repo)
    assert nemo_rl_checkout.read_checkout(repo).commit == commit


def real_checkout(folder: Path, minor: int, commit: str | None = None) -> Path:
    (folder / "nemo_rl").mkdir(parents=True)
    (folder / "nemo_rl" / "package_info.py").write_text(f"MAJOR = 0\nMINOR = {minor}\nPATCH = 0\n")
    if commit:
        (folder / ".git").mkdir()
        (folder / ".git" / "HEAD").write_text(commit)
    return folder


def test_a_checkout_of_another_version_names_the_option_for_it(tmp_path: Path) -> None:
    """Also where that version has no such script, as v0.6.0 has no run_grpo_math.py."""
    config = make_config(tmp_path, site__checkout=str(real_checkout(tmp_path / "RL", 6)))
    put(config, "nemo_rl", {"version": "v0.5.0", "scripts": {"grpo": "examples/run_grpo_math.py", "gym": "x.py"}})
    with pytest.raises(UserError) as caught:
        engine.check(config)
    assert "is NeMo RL 0.6.0" in caught.value.found and caught.value.fix.startswith("nemo_rl=v0_6,")


def test_a_checkout_of_a_version_that_was_never_imported_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        nemo_rl_checkout.refuse_other_version(real_checkout(tmp_path, 9), "v0.7.0")
    assert caught.value.fix.startswith(f"nano-exp recipes import {tmp_path} --write")


def test_a_branch_that_was_imported_wants_its_own_commit(tmp_path: Path) -> None:
    checkout = real_checkout(tmp_path, 6, "abcdef0123456789")
    nemo_rl_checkout.refuse_other_version(checkout, "v0.6.0+abcdef012345")
    with pytest.raises(UserError, match=r"NeMo RL 0\.6\.0 at abcdef012345"):
        nemo_rl_checkout.refuse_other_version(checkout, "v0.6.0+111111111111")


def test_a_branch_is_not_taken_for_the_release_that_it_calls_itself(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        nemo_rl_checkout.refuse_other_version(real_checkout(tmp_path, 6, "abcdef0123456789"), "v0.7.0")
    assert caught.value.fix.startswith(f"nano-exp recipes import {tmp_path} --as main --write")


# overlay


def parser_config(tmp: Path, **changes: object) -> dict:
    return make_config(tmp, **{KWARGS: {"tool_parser": "nemotron_json"}, **changes})


TENSORBOARD = {"logger.tensorboard_enabled": True, "logger.tensorboard": {}}


def overlay(config: dict, ctx: Context) -> dict:
    """Without what each attempt has."""
    told = engine.overlay(config, ctx)
    assert TENSORBOARD.items() <= told.items()
    return {key: value for key, value in told.items() if key not in TENSORBOARD}


def test_every_attempt_logs_to_tensorboard_and_a_users_settings_stand(tmp_path: Path) -> None:
    config = make_config(tmp_path, logger__tensorboard={"log_dir": "tb"}, logger__tensorboard_enabled=False)
    assert engine.overlay(config, make_context(config, tmp_path)) == {"logger.tensorboard_enabled": True}


def test_must_save_by_leaves_the_margins(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    ctx = make_context(config, tmp_path, deadline=time.time() + 4 * 3600 + 30)
    assert overlay(config, ctx) == {"checkpointing.checkpoint_must_save_by": "00:03:35:29"}


@pytest.mark.parametrize("left, text", [(20 * 60, "00:00:09:59"), (-5, "00:00:00:00")])
def test_a_short_allocation_keeps_half_of_its_time(tmp_path: Path, left: float, text: str) -> None:
    config = make_config(tmp_path)
    ctx = make_context(config, tmp_path, deadline=time.time() + left)
    assert overlay(config, ctx) == {"checkpointing.checkpoint_must_save_by": text}


def test_a_users_must_save_by_and_no_deadline_are_left_alone(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    assert overlay(config, make_context(config, tmp_path)) == {}
    put(config, "checkpointing.checkpoint_must_save_by", "00:01:00:00")
    assert overlay(config, make_context(config, tmp_path, deadline=time.time() + 9999)) == {}


@pytest.mark.parametrize(
    "seconds, text", [(0, "00:00:00:00"), (59.9, "00:00:00:59"), (90061, "01:01:01:01"), (864000, "10:00:00:00")]
)
def test_must_save_by_format(seconds: float, text: str) -> None:
    assert dd_hh_mm_ss(seconds) == text


def make_snapshot(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("")
    return folder


def test_parser_of_the_snapshot_that_main_names(tmp_path: Path) -> None:
    config = parser_config(tmp_path)
    hub = tmp_path / "hf" / "hub" / "models--org--model"
    both = ("nemotron_toolcall_parser_no_streaming.py", "nemotron_toolcall_parser_streaming.py")
    wanted = make_snapshot(hub / "snapshots" / "aaa", *both)
    make_snapshot(hub / "snapshots" / "bbb", *both)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("aaa")
    assert overlay(config, make_context(config, tmp_path)) == {
        PLUGIN: str(wanted / "nemotron_toolcall_parser_no_streaming.py")
    }


def test_parser_of_a_model_that_is_a_folder(tmp_path: Path) -> None:
    folder = make_snapshot(tmp_path / "weights", "nemotron_toolcall_parser_v2.py")
    config = parser_config(tmp_path, policy__model_name=str(folder))
    assert overlay(config, make_context(config, tmp_path)) == {PLUGIN: str(folder / "nemotron_toolcall_parser_v2.py")}


def test_a_missing_parser_names_the_folder_and_the_override(tmp_path: Path) -> None:
    config = parser_config(tmp_path)
    with pytest.raises(UserError) as caught:
        nemo_rl_checkout.parser_plugin(config)
    assert str(tmp_path / "hf" / "hub" / "models--org--model") in caught.value.found
    assert f"++{PLUGIN}=" in caught.value.fix
    put(config, PLUGIN, "/mine/parser.py")
    assert nemo_rl_checkout.parser_plugin(config) is None


@pytest.mark.parametrize(
    "path, value",
    [
        ("env.should_use_nemo_gym", False),
        ("policy.generation.vllm_cfg.http_server_serving_chat_kwargs.tool_parser", "qwen3_coder"),
        ("policy.generation.vllm_cfg.http_server_serving_chat_kwargs", None),
        ("policy.generation.backend", "megatron"),
    ],
)
def test_no_parser_where_none_is_needed(tmp_path: Path, path: str, value: object) -> None:
    config = parser_config(tmp_path)
    put(config, path, value)
    assert nemo_rl_checkout.parser_plugin(config) is None


# command and environment


def environment(tmp: Path, base: dict[str, str] | None = None, **changes: object) -> dict[str, str]:
    config = make_config(tmp, **changes)
    return driver_env.environment(config, make_context(config, tmp), {"PATH": "/usr/bin:/bin", **(base or {})})


def test_command(tmp_path: Path) -> None:
    config = make_config(tmp_path, gym=False)
    ctx = make_context(config, tmp_path)
    command = engine.command(config, ctx)
    assert command.argv == [sys.executable, "examples/run_grpo.py", "--config", str(ctx.config_path)]
    assert (command.cwd, command.open_files) == (STANDIN, 65535)
    (scratch,) = command.scratch
    assert command.env["RAY_TMPDIR"] == str(scratch) and stat.S_IMODE(scratch.stat().st_mode) == 0o700
    scratch.rmdir()


def test_several_nodes_need_an_allocation_of_that_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, cluster__num_nodes=2)
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(UserError, match="num_nodes=2, and no Slurm allocation") as caught:
        engine.command(config, make_context(config, tmp_path))
    assert "--nodes=2" in caught.value.fix
    monkeypatch.setattr("nano_exp.slurm.hostnames", lambda _: ["a", "b", "c"])
    with pytest.raises(UserError, match="num_nodes=2, and an allocation of 3"):
        engine.command(config, make_context(config, tmp_path))


def test_environment_of_its_own_ray(tmp_path: Path) -> None:
    env = environment(tmp_path, {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_TMPDIR": "/elsewhere"})
    assert env["RAY_ADDRESS"] == "local"
    assert Path(env["RAY_TMPDIR"]).name.startswith("nx-") and len(env["RAY_TMPDIR"]) < driver_env.RAY_TMPDIR_MAX
    assert env["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_every_attempt_has_its_own_ray_folder(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    base = {"PATH": "/bin"}
    folders = [driver_env.environment(config, make_context(config, tmp_path, n), base)["RAY_TMPDIR"] for n in (1, 2)]
    assert folders[0] != folders[1]


def test_a_ray_folder_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RAY_TMPDIR"):
        environment(tmp_path, site__env={"RAY_TMPDIR": "/" + "x" * 90})


def test_environment_of_python(tmp_path: Path) -> None:
    ours = str(Path(engines.__file__).parents[2])
    base = {
        "PYTHONPATH": f"{ours}{os.pathsep}/lib/mine",
        "PYTHONHOME": "/x",
        "VIRTUAL_ENV": sys.prefix,
        "NRL_A": "1",
        "SLURM_JOB_ID": "7",
        "OMP_NUM_THREADS": "3",
    }
    env = environment(tmp_path, base, site__python="/opt/venv/bin/python")
    assert env["PYTHONPATH"] == "/lib/mine"
    assert not {"PYTHONHOME", "VIRTUAL_ENV"} & set(env)
    assert env["PATH"] == "/opt/venv/bin:/usr/bin:/bin"
    assert (env["NRL_A"], env["SLURM_JOB_ID"], env["OMP_NUM_THREADS"], env["PYTHONUNBUFFERED"]) == ("1", "7", "3", "1")
    assert "PYTHONPATH" not in environment(tmp_path, {"PYTHONPATH": ours})
    env = environment(
        tmp_path, {"PYTHONPATH": f"{ours}:/lib/launchers:/lib/mine", "NANO_EXP_PACKAGES": "/lib/launchers"}
    )
    assert env["PYTHONPATH"] == "/lib/mine" and "NANO_EXP_PACKAGES" not in env


def test_arch_list_for_megatron_only_and_never_over_the_users(tmp_path: Path) -> None:
    assert environment(tmp_path)["TORCH_CUDA_ARCH_LIST"] == "9.0 10.0"
    assert environment(tmp_path, {"TORCH_CUDA_ARCH_LIST": "8.0"})["TORCH_CUDA_ARCH_LIST"] == "8.0"
    assert "TORCH_CUDA_ARCH_LIST" not in environment(tmp_path, policy__megatron_cfg__enabled=False)


def test_wandb_is_offline_without_a_key(tmp_path: Path) -> None:
    assert environment(tmp_path)["WANDB_MODE"] == "offline"
    assert "WANDB_MODE" not in environment(tmp_path, {"WANDB_API_KEY": "k"})
    assert environment(tmp_path, {"WANDB_MODE": "online"})["WANDB_MODE"] == "online"
    assert environment(tmp_path)["WANDB_DIR"] == str(tmp_path)


def test_site_env_has_the_last_word(tmp_path: Path) -> None:
    env = environment(
        tmp_path,
        {"NCCL_DEBUG": "INFO"},
        site__env={"WANDB_MODE": "disabled", "NCCL_DEBUG": None, "N": 3, "RAY_ADDRESS": "h:1"},
    )
    assert (env["WANDB_MODE"], env["N"], env["RAY_ADDRESS"]) == ("disabled", "3", "h:1") and "NCCL_DEBUG" not in env
    assert env["HF_HOME"] == str(tmp_path / "hf")


def fake_raylet(proc: Path) -> Path:
    (proc / "77").mkdir(parents=True)
    (proc / "77" / "cmdline").write_bytes(b"/v/ray/raylet/raylet\0--node_id=1\0--gcs-address=10.0.0.1:6379\0")
    (proc / "78").mkdir()
    (proc / "78" / "cmdline").write_bytes(b"python\0worker.py\0--gcs-address=10.0.0.1:6379\0")
    (proc / "79").mkdir()
    return proc


def test_another_ray_on_the_host_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = engine.ray_addresses(fake_raylet(tmp_path / "proc"))
    assert found == {77: "10.0.0.1:6379"}
    config = make_config(tmp_path)
    monkeypatch.setattr(engine, "ray_addresses", lambda: found)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for job, allocation, fix in (
        ("", None, "slurm.parallel_local=1"),
        ("12", "share", "the same launch with site.allocation=node"),
        ("12", "node", "hydra.launcher.exclude="),
    ):
        if job:
            monkeypatch.setenv("SLURM_JOB_ID", job)
        put(config, "site.allocation", allocation)
        with pytest.raises(UserError, match="raylet 77") as refused:
            engine.command(config, make_context(config, tmp_path))
        assert fix in refused.value.fix and "kill 77" in refused.value.fix
    monkeypatch.delenv("SLURM_JOB_ID")
    put(config, "site.env", {"RAY_ADDRESS": "10.0.0.1:6379"})
    command = engine.command(config, make_context(config, tmp_path))
    assert command.env["RAY_ADDRESS"] == "10.0.0.1:6379"
    shutil.rmtree(command.env["RAY_TMPDIR"])


def test_open_files_are_raised_and_never_lowered() -> None:
    code = (
        "import resource; from nano_exp.engines import raise_open_files as up; R = resource.RLIMIT_NOFILE;"
        "hard = resource.getrlimit(R)[1]; resource.setrlimit(R, (64, min(hard, 256) if hard > 0 else 256));"
        "up(128); a = resource.getrlimit(R)[0]; up(65535); b = resource.getrlimit(R)[0]; up(10);"
        "print(a, b, resource.getrlimit(R)[0])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "128 256 256\n"


# Checkpoints and ends


def test_last_step_is_the_highest_whole_checkpoint(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    ctx = make_context(config, tmp_path)
    assert engine.last_step(config, ctx) == 0
    for name in ("step_3", "step_12", "tmp_step_15", "old_step_20", "step_x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "training_info.json").write_text("{}")
    (tmp_path / "checkpoints" / "step_18").mkdir()  # what an interrupted removal leaves
    assert engine.last_step(config, ctx) == 12


def test_torn_is_what_nothing_reads_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    ctx = make_context(config, tmp_path)
    assert engine.torn(config, ctx) == []
    for name in ("step_3", "step_12", "tmp_step_12", "tmp_step_15", "old_step_12", "old_step_20", "step_x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "training_info.json").write_text("{}")
    for name in ("step_6", "step_18"):  # a removal that was cut off; and one that is newer than all whole ones
        (tmp_path / "checkpoints" / name).mkdir()
    found = [path.name for path in engine.torn(config, ctx)]
    assert found == ["old_step_12", "step_6", "tmp_step_12", "tmp_step_15"]


TIMEOUT = ["Timeout has been reached, stopping training early"]
MAX_STEPS = ["Max number of steps has been reached, stopping training early"]
REACHED = ["Validation accuracy reached the early-stop threshold (0.9123 >= 0.9); stopping training"]
CRASHED = ["❌ Error in async loop: x"]
BAR = "=" * 25
EPOCH = f"{BAR} Epoch 1/1 {BAR}"
IN_EPOCH = [EPOCH, f"{BAR} Step 5/7 {BAR}", "📊 Training Results:"]
EPOCH_ENDED = [EPOCH, f"{BAR} Step 5/5 {BAR}", "📊 Training Results:"]
ASYNC = {"grpo__async_grpo": {"enabled": True}}


@pytest.mark.parametrize(
    ("exit_code", "last", "extra", "kind"),
    [
        (0, 8, {"printed": MAX_STEPS}, "done"),
        (0, 8, {}, "done"),  # started again although it had finished: it says nothing
        (1, 8, {}, "done"),  # crashed in its shutdown, after the last checkpoint
        (0, 6, {"printed": TIMEOUT}, "stopped"),
        (0, 8, {"printed": TIMEOUT}, "done"),
        (0, 0, {"printed": MAX_STEPS, "finished_steps": 8}, "done"),  # checkpointing.enabled=false
        (0, 5, {"printed": EPOCH_ENDED, "finished_steps": 5}, "done"),
        (0, 5, {"printed": IN_EPOCH, "finished_steps": 5}, "failed"),  # it ended, and said no word
        (0, 5, {"finished_steps": 5}, "failed"),  # in its set-up
        (0, 5, {"printed": [EPOCH], "finished_steps": 5}, "done"),  # the attempt before had ended the epoch
        (0, 0, {"printed": [EPOCH]}, "failed"),  # fewer samples than one batch
        (0, 5, {"printed": [*IN_EPOCH, *REACHED], "finished_steps": 5}, "done"),
        (0, 0, {"printed": ["Initial v" + REACHED[0].removeprefix("V")]}, "done"),
        (0, 3, {"printed": CRASHED}, "failed"),
        (1, 3, {"finished_steps": 5}, "failed"),
        (1, 3, {"printed": [*IN_EPOCH, *REACHED], "finished_steps": 5}, "failed"),  # before it was saved
        (-9, 3, {}, "failed"),
        (-15, 3, {"asked_to_stop": True}, "stopped"),
        (143, 0, {"asked_to_stop": True}, "stopped"),
    ],
)
def test_end_of(tmp_path: Path, exit_code: int, last: int, extra: dict, kind: str) -> None:
    assert engine.end_of(make_config(tmp_path), exit_code, last, **extra) == kind


@pytest.mark.parametrize(
    ("printed", "kind"),
    [([], "failed"), (EPOCH_ENDED[1:], "failed"), (CRASHED, "failed"), (REACHED, "done"), (MAX_STEPS, "done")],
)
def test_an_async_run_is_done_by_its_word_alone(tmp_path: Path, printed: list[str], kind: str) -> None:
    assert engine.end_of(make_config(tmp_path, **ASYNC), 0, 3, 3, printed) == kind


def test_with_dynamic_sampling_the_epoch_ends_before_its_banner_does(tmp_path: Path) -> None:
    config = make_config(tmp_path, grpo__use_dynamic_sampling=True)
    assert engine.end_of(config, 0, 3, 5, IN_EPOCH) == "done"
    assert engine.end_of(config, 0, 3, 5, [EPOCH.replace("1/1", "1/2"), *IN_EPOCH[1:]]) == "failed"


def test_collecting_trajectories_takes_no_step(tmp_path: Path) -> None:
    config = make_config(tmp_path, env__nemo_gym={"is_trajectory_collection": True})
    assert engine.end_of(config, 0, 0) == "done"
