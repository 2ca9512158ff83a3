"""Runs that share caches which are not there yet: one makes them, the others wait, and none starts in half of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from core_case import attempt, dead_process, prepared, standin, start_attempt, wait_for
from pace import limit

from nano_exp import files
from nano_exp.job import cache_lock
from nano_exp.nemo_rl.caches import STARTED, Cache, Conversion, Environments, cold, of
from nano_exp.store import runs
from nano_exp.store.runs import Owner

WORKER = "MegatronPolicyWorker"
NAME = f"nemo_rl.models.policy.workers.megatron_policy_worker.{WORKER}"
VENVS = Path(os.environ.get("NANO_EXP_NEMO_RL", "/nowhere"), "nemo_rl", "utils", "venvs.py")


def environment(folder: Path, name: str = NAME, started: bool = False, python: bool = True) -> Path:
    path = folder / name
    (path / "bin").mkdir(parents=True)
    if python:
        (path / "bin" / "python").touch()
    if started:
        (path / STARTED).touch()
    return path


def aged(path: Path, seconds: float) -> None:
    for one in (*path.rglob("*"), path):
        os.utime(one, times=(time.time() - seconds,) * 2)


def converted(folder: Path, *names: str) -> Conversion:
    made = folder / "org" / "model" / "iter_0000000"
    made.mkdir(parents=True)
    for name in names:
        (made / name).touch()
    return Conversion(folder, "org/model")


@contextmanager
def asking(
    *caches: Cache, owner: Owner | None = None, run: str = "r1", stop: bool = False
) -> Iterator[tuple[cache_lock.Hold, list[str]]]:
    said: list[str] = []
    waiter = cache_lock.Waiter(owner or runs.this_process(), run, said.append, lambda: stop)
    with cache_lock.hold(caches, waiter) as found:
        yield found, said


# --- a stampede -----------------------------------------------------------------------------------------------------

STUB_UV = """#!/bin/sh
case "$1" in
  venv) mkdir -p "$3/bin" && touch "$3/bin/python" ;;
  sync) sleep 1 && touch "$UV_PROJECT_ENVIRONMENT/package" ;;
esac
"""


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(False, id="a stand-in of the same contract"),
        pytest.param(
            True,
            id="NeMo RL's own _env_builder",
            marks=pytest.mark.skipif(not VENVS.is_file(), reason="NANO_EXP_NEMO_RL names no NeMo RL checkout"),
        ),
    ],
)
def test_sixteen_runs_on_empty_caches_all_train(tmp_path: Path, checkout: Path, theirs: bool) -> None:
    seeds = [[f"grpo.seed={seed}"] for seed in range(16)]
    launch = prepared(tmp_path, *standin(checkout), "grpo.max_num_steps=1", points=seeds)
    shared = {"NEMO_RL_VENV_DIR": str(tmp_path / "venvs"), "NRL_MEGATRON_CHECKPOINT_DIR": str(tmp_path / "megatron")}
    shared["STANDIN_MAKE_SECONDS"] = "1"
    if theirs:
        (uv := tmp_path / "bin" / "uv").parent.mkdir()
        uv.write_text(STUB_UV)
        uv.chmod(0o755)
        shared |= {"STANDIN_VENVS": str(VENVS), "PATH": f"{uv.parent}:{os.environ['PATH']}"}
    together = [start_attempt(launch.dir, 0, "--task", str(task), **shared) for task in range(16)]
    said = [process.communicate(timeout=limit(300))[0] for process in together]
    failed = sum(process.returncode != 0 for process in together)
    stood = sum("which makes" in words for words in said)
    print(
        f"\n16 runs at once on empty caches: {16 - failed} trained, {failed} failed; {stood} waited for who made them"
    )
    assert not failed, said
    makers = [words for words in said if "this run makes" in words]
    waited = [words for words in said if re.search(r"waiting for run r\w+ \(process .*, which makes", words)]
    assert len(makers) == 1 and makers[0] not in waited
    assert waited, "none came while the first made them"


def test_two_runs_without_the_lock_would_meet_in_a_half_made_environment(tmp_path: Path, checkout: Path) -> None:
    """What the lock is for: the same stand-in, started by hand."""
    launch = prepared(tmp_path, *standin(checkout), "grpo.max_num_steps=1")
    shared = {"NEMO_RL_VENV_DIR": str(tmp_path / "venvs"), "NRL_MEGATRON_CHECKPOINT_DIR": str(tmp_path / "megatron")}
    first = start_attempt(launch.dir, STANDIN_MAKE_SECONDS="60", **shared)
    wait_for(lambda: next(tmp_path.glob("venvs/*/bin/python"), None), "an interpreter")
    config = launch.arrays[0].rows[0].dir / "attempts" / "1" / "nemo_rl.yaml"
    second = subprocess.run(
        ["python3", checkout / "examples" / "run_grpo.py", "--config", config],
        env={**os.environ, **shared, "TORCH_CUDA_ARCH_LIST": "9.0"},
        capture_output=True,
        text=True,
    )
    first.terminate()
    first.communicate(timeout=limit(60))
    assert "ModuleNotFoundError" in second.stderr


# --- those who die --------------------------------------------------------------------------------------------------


def test_what_a_killed_run_left_half_made_is_made_again(tmp_path: Path, checkout: Path) -> None:
    launch = prepared(tmp_path, *standin(checkout), "grpo.max_num_steps=1", points=[["grpo.seed=1"], ["grpo.seed=2"]])
    shared = {"NEMO_RL_VENV_DIR": str(tmp_path / "venvs"), "NRL_MEGATRON_CHECKPOINT_DIR": str(tmp_path / "megatron")}
    first = start_attempt(launch.dir, 0, "--task", "0", STANDIN_MAKE_SECONDS="60", **shared)
    wait_for(lambda: next(tmp_path.glob("venvs/*/STARTED_ENV_BUILDER"), None), "the first environment's beginning")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = attempt(launch.dir, 0, "--task", "1", **shared)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "was not finished: it is made ready for NeMo RL to go on with it" in second.stdout
    assert not list(tmp_path.glob("venvs/*/STARTED_ENV_BUILDER"))


def test_a_run_that_is_told_to_stop_while_it_waits_is_stopped(tmp_path: Path, checkout: Path) -> None:
    launch = prepared(tmp_path, *standin(checkout), "grpo.max_num_steps=1", points=[["grpo.seed=1"], ["grpo.seed=2"]])
    shared = {"NEMO_RL_VENV_DIR": str(tmp_path / "venvs"), "NRL_MEGATRON_CHECKPOINT_DIR": str(tmp_path / "megatron")}
    first = start_attempt(launch.dir, 0, "--task", "0", STANDIN_MAKE_SECONDS="60", **shared)
    wait_for(lambda: next(tmp_path.glob("venvs/*/STARTED_ENV_BUILDER"), None), "the first environment's beginning")
    second = start_attempt(launch.dir, 0, "--task", "1", **shared)
    log = launch.arrays[0].rows[1].dir / "attempts" / "1" / "attempt.log"
    run, maker = log.parents[2], launch.arrays[0].rows[0].dir.name
    waiting = wait_for(lambda: runs.load(run).last("waiting"), "the second waits")
    assert re.fullmatch(rf"the environment of \w+, .* that run {maker} \(process .*\) makes", waiting.data["what"])
    assert "which makes" in log.read_text()
    second.terminate()
    second.communicate(timeout=limit(60))
    over = runs.load(run).last("waiting")
    assert over is not None and over.data["what"] == ""
    assert files.read_json(log.with_name("end.json"))["kind"] == "stopped"
    assert not log.with_name("stdout.log").exists(), "its engine was not started"
    first.terminate()
    first.communicate(timeout=limit(60))


def test_a_holder_on_another_node_is_dead_when_it_is_silent_and_not_alive_in_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Environments(tmp_path, (WORKER,))
    elsewhere = Owner(None, 0, "another-host", 7, 1.0)
    assert runs.claim(cache.lock, 1, elsewhere)
    (claim,) = runs.attempts(cache.lock)
    line = cache_lock._Line(cache, runs.this_process())
    assert not line.dead(claim), "it was seen for the first time"
    monkeypatch.setattr(cache_lock, "SILENT_S", 0.0)
    assert line.dead(claim)
    os.utime(claim.dir / "owner.json", times=(1, 1))
    monkeypatch.setattr(cache_lock, "SILENT_S", 60.0)
    assert not line.dead(claim), "it was touched, whatever that host's clock says"
    monkeypatch.setattr(cache_lock, "SILENT_S", 0.0)
    in_slurm = runs.Attempt(2, claim.dir, Owner("12", 0, "another-host", 7, 1.0), None)
    for answer, dead in ((True, False), (None, False), (False, True)):
        monkeypatch.setattr(cache_lock.state, "owner_alive", lambda owner, asked, answer=answer: answer)
        assert line.dead(in_slurm) is dead
    requeued = cache_lock._Line(cache, Owner("12", 1, "this-host", 8, 1.0))
    assert requeued.dead(in_slurm), "this very job, before it was requeued"


# --- what is whole --------------------------------------------------------------------------------------------------


def test_what_was_made_by_hand_is_taken_as_it_is(tmp_path: Path) -> None:
    environment(tmp_path / "venvs")
    caches = (Environments(tmp_path / "venvs", (WORKER,)), converted(tmp_path / "megatron", "run_config.yaml"))
    with asking(*caches) as (found, said):
        assert not found.claims and not said
    assert not list(tmp_path.rglob("owner.json")), "nothing was written beside it"


def test_an_environment_whose_builder_died_long_ago_is_begun_again(tmp_path: Path) -> None:
    path = environment(tmp_path, started=True, python=False)
    (path / "package").touch()
    aged(path, 86400)
    with asking(Environments(tmp_path, (WORKER,))) as (found, said):
        assert len(found.claims) == 1 and "was not finished" in said[0] and WORKER in said[1]
    assert not (path / STARTED).exists() and (path / "package").exists(), "what is installed is kept"


def test_one_that_somebody_makes_by_hand_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = environment(tmp_path, started=True)
    monkeypatch.setattr(cache_lock.time, "sleep", lambda _: (path / STARTED).unlink(missing_ok=True))
    with asking(Environments(tmp_path, (WORKER,))) as (found, said):
        assert len(said) == 1 and "by hand" in said[0]
        assert (path / "bin" / "python").exists()
        found.whole()


def test_a_torn_conversion_is_set_aside_and_nothing_of_it_removed(tmp_path: Path) -> None:
    cache = converted(tmp_path, "weights.distcp")
    aged(tmp_path, 86400)
    with asking(cache) as (found, said):
        assert len(found.claims) == 1 and "set aside" in said[0]
        assert not cache.entries()
    (aside,) = (tmp_path / "org").glob("model.torn-*")
    assert (aside / "iter_0000000" / "weights.distcp").is_file()


def test_what_was_there_before_a_run_failed_is_trusted_and_what_it_began_is_not(tmp_path: Path) -> None:
    environment(tmp_path)
    both = Environments(tmp_path, (WORKER, "VllmGenerationWorker"))
    with asking(both) as (found, _):
        assert found.claims
        made = environment(tmp_path, "nemo_rl.vllm_worker.VllmGenerationWorker")  # and its engine fails
    with asking(Environments(tmp_path, (WORKER,))) as (found, said):
        assert not found.claims and not said
    with asking(both) as (found, said):
        assert "VllmGenerationWorker was not finished" in said[0]
        assert not (made / "bin" / "python").exists() and (tmp_path / NAME / "bin" / "python").exists()
        made.joinpath("bin", "python").touch()
        found.whole()
    with asking(both) as (found, said):
        assert not found.claims and not said, "it is whole by the word of a run that trained with it"


def test_a_conversion_that_a_failed_run_finished_is_kept(tmp_path: Path) -> None:
    cache = Conversion(tmp_path, "org/model")
    with asking(cache) as (found, _):
        assert found.claims
        converted(tmp_path, "run_config.yaml")
    with asking(cache) as (found, said):
        assert not found.claims and not said


def test_a_run_that_is_over_gives_its_place_to_the_next(tmp_path: Path) -> None:
    cache = Conversion(tmp_path, "org/model")
    assert runs.claim(cache.lock, 1, dead_process())
    with asking(cache) as (found, _):
        assert [claim.name for claim, _ in found.claims] == ["2"]


def test_what_a_run_trained_without_is_not_waited_for(tmp_path: Path) -> None:
    """NeMo RL in one environment for all: site.python has what its workers need, and makes none."""
    cache = Environments(tmp_path, (WORKER,))
    with asking(cache) as (first, said):
        assert first.claims and "this run makes" in said[-1]
        first.whole()
    with asking(cache) as (second, said):
        assert not second.claims and not said
    with asking(Environments(tmp_path, (WORKER, "VllmGenerationWorker"))) as (third, said):
        assert third.claims
        third.torn()
    with asking(cache) as (fourth, _):  # the last one failed: perhaps for want of it
        assert fourth.claims


def test_caches_where_nobody_may_write_do_not_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with asking(Environments(tmp_path / "file" / "venvs", (WORKER,))) as (found, said):
        assert not found.claims and "nobody can be kept from making it" in said[0]


# --- which caches a run has -----------------------------------------------------------------------------------------

POLICY = {"model_name": "org/model", "generation": {"backend": "vllm", "vllm_cfg": {"async_engine": True}}}
MEGATRON = {**POLICY, "megatron_cfg": {"enabled": True}}


def config(policy: dict[str, object], site: dict[str, object] | None = None, **more: object) -> dict[str, object]:
    return {"engine": {"name": "nemo_rl"}, "site": {"checkout": "/RL", **(site or {})}, "policy": policy, **more}


@pytest.mark.parametrize(
    ("given", "env", "expected"),
    [
        (config(MEGATRON), {"HF_HOME": "/hf"}, ["/RL/venvs", "/hf/nemo_rl/org/model"]),
        (config(MEGATRON, {"venv_dir": "/v", "hf_home": "/h"}), {}, ["/v", "/h/nemo_rl/org/model"]),
        (config(MEGATRON), {"NRL_MEGATRON_CHECKPOINT_DIR": "/m"}, ["/RL/venvs", "/m/org/model"]),
        (config(POLICY), {}, ["/RL/venvs"]),
        (config({**MEGATRON, "pretrained_checkpoint": {"path": "/p"}}), {}, ["/RL/venvs"]),
        (config(MEGATRON, {"entry": "pyxis"}), {"HF_HOME": "/hf"}, []),
        (config(MEGATRON, {"entry": "pyxis", "venv_dir": "/v", "hf_home": "/h"}), {}, ["/v", "/h/nemo_rl/org/model"]),
        (
            config(MEGATRON, {"entry": "pyxis", "venv_dir": "/v", "env": {"NEMO_RL_VENV_DIR": "/opt/ray_venvs"}}),
            {},
            [],
        ),
        ({**config(MEGATRON), "engine": {"name": "embedded"}}, {}, []),
    ],
)
def test_the_caches_of_a_run(given: dict[str, object], env: dict[str, str], expected: list[str]) -> None:
    found = of(given, env)
    assert [str(c.path if isinstance(c, Conversion) else c.folder) for c in found] == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "workers"),
    [
        (config(MEGATRON), {"MegatronPolicyWorker", "VllmAsyncGenerationWorker"}),
        (config(POLICY), {"DTensorPolicyWorker", "VllmAsyncGenerationWorker"}),
        (config({**POLICY, "dtensor_cfg": {"_v2": True}}), {"DTensorPolicyWorkerV2", "VllmAsyncGenerationWorker"}),
        (
            config(POLICY, env={"should_use_nemo_gym": True}, grpo={"async_grpo": {"enabled": True}}),
            {
                *("DTensorPolicyWorker", "VllmAsyncGenerationWorker", "NemoGym"),
                *("AsyncTrajectoryCollector", "ReplayBuffer"),
            },
        ),
        (config({"generation": {"backend": "sglang"}}), {"DTensorPolicyWorker", "SGLangGenerationWorker"}),
    ],
)
def test_the_workers_that_a_run_starts(given: dict[str, object], workers: set[str]) -> None:
    (found,) = [cache for cache in of(given, {}) if isinstance(cache, Environments)]
    assert set(found.workers) == workers


def test_overrides_of_the_models_config_are_in_the_conversions_name_from_v0_6_0_on() -> None:
    given = config({**MEGATRON, "hf_config_overrides": {"b": 1, "a": 2}}, nemo_rl={"version": "v0.6.0"})
    (_, found) = of(given, {"HF_HOME": "/hf"})
    assert isinstance(found, Conversion) and re.fullmatch(r"org/model__hfovr_[0-9a-f]{12}", found.name)
    (_, old) = of({**given, "nemo_rl": {"version": "v0.5.0"}}, {"HF_HOME": "/hf"})
    assert isinstance(old, Conversion) and old.name == "org/model"


def test_a_forced_conversion_is_made_by_one_at_a_time(tmp_path: Path) -> None:
    converted(tmp_path, "run_config.yaml")
    again = Conversion(tmp_path, "org/model", again=True)
    assert cold([again]) and not cold([Conversion(tmp_path, "org/model")])
    with asking(again) as (found, _):
        assert found.claims and again.entries() == {"org/model": True}, "it is NeMo RL that makes it anew"
    shutil.rmtree(tmp_path)
