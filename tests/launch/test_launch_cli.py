"""`python launch.py` from end to end, as processes: on this machine with the embedded engine and with the stand-in."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_case import (
    LAUNCH,
    TINY,
    Answer,
    Finished,
    environment,
    everything_below,
    launch,
    make_attempt,
    point,
    prepared,
    standin,
    start_launch,
    wait_for,
)
from pace import limit, paced

from nano_exp import files
from nano_exp.compose.freeze import Frozen, freeze
from nano_exp.dotted import set_dotted
from nano_exp.errors import UserError
from nano_exp.launch import convergence, local, show
from nano_exp.launch import flow as launching
from nano_exp.launch import waiting as until_ended
from nano_exp.store import identity, metrics_file, runs, state
from nano_exp.store.queue_lookup import job_lookup

STEPS = 3


def here(checkout: Path, *more: str) -> list[str]:
    """A published recipe on the stand-in, executed on this machine."""
    short = [f"grpo.max_num_steps={STEPS}", "checkpointing.save_period=1", "slurm.where=local"]
    return [*standin(checkout), *short, *more]


def stored(folder: Path) -> list[runs.Run]:
    return list(runs.find(folder / "results"))


def state_of(run: runs.Run) -> state.State:
    fresh = runs.load(run.dir)
    return state.state(fresh, runs.attempts(run.dir), job_lookup(run.results), Answer([]))


def steps(run: Path) -> list[int]:
    return [row["step"] for row in metrics_file.read(run) if "train/reward" in row]


# --- nothing but the two words --------------------------------------------------------------------------------------


def test_the_tiny_model_trains_and_what_it_learned_is_shown(finished: Finished) -> None:
    assert finished.returncode == 0, finished.stderr
    out = finished.stdout
    assert out.startswith("plan: 1 run (1 new), 1 to submit\n")
    assert f"\n{finished.run.name}: done\n" in out
    assert re.search(r"\n  reward +\d\.\d{3} -> \d\.\d{3}", out)
    assert re.search(r"\n  validation +\d\.\d{3} -> \d\.\d{3}", out)
    assert re.search(r"\n  steps +2\n", out)
    assert "results/nano_tiny/" in out
    assert "warm start of 1 steps" in out
    assert steps(finished.run) == [1, 2]
    assert {"config.yaml", "run.json", "events", "metrics.jsonl", "checkpoints", "logs", "attempts"} <= {
        p.name for p in finished.run.iterdir()
    }
    assert [p.name for p in finished.folder.iterdir()] == ["results"], "nothing beside the results folder"


def test_the_same_command_again_shows_it_and_does_nothing(finished: Finished) -> None:
    before = everything_below(finished.folder)
    again = launch(finished.folder, *TINY)
    assert again.returncode == 0, again.stderr
    assert "1 done), 0 to submit" in again.stdout
    assert f"\n{finished.run.name}: done\n" in again.stdout
    assert everything_below(finished.folder) == before


def test_a_dry_run_of_a_run_that_is_done(finished: Finished) -> None:
    before = everything_below(finished.folder)
    shown = launch(finished.folder, *TINY, "dry_run=true")
    assert shown.returncode == 0
    assert "1 done), 0 to submit" in shown.stdout
    assert everything_below(finished.folder) == before


# --- dry run --------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_everything_and_leaves_nothing(tmp_path: Path, checkout: Path) -> None:
    done = launch(tmp_path, "-m", *standin(checkout), "cluster=1n8g,2n8g", "grpo.seed=1,2", "dry_run=true")
    assert done.returncode == 0, done.stderr
    scripts, _, plan = done.stdout.partition("plan: 4 runs (4 new), 4 to submit\n")
    script, _, other = scripts.partition("the same but for these lines ---\n")
    assert script.count("#!/bin/bash") == 1
    assert "#SBATCH --array=0-1%2" in script
    assert "#SBATCH --nodes=2" in other
    assert len(other.split("\n")) < 8
    assert "max_num_steps:" not in done.stdout
    _, header, first, *_ = plan.splitlines()
    assert header.split() == ["run", "state", "cluster", "seed"]
    assert first.split()[1:] == ["new", "submit", "1n8g", "1"]
    assert "one allocation each, to its time limit: 64 GPU-hours a run, 192 in all" in plan
    assert plan.splitlines()[-1].startswith("dry run: nothing was submitted and nothing was written (show_yaml=true")
    assert everything_below(tmp_path) == []


def test_the_engines_yaml_is_shown_on_demand(tmp_path: Path, checkout: Path) -> None:
    done = launch(tmp_path, "-m", *standin(checkout), "grpo.seed=1,2", "dry_run=true", "show_yaml=true")
    assert done.returncode == 0, done.stderr
    yaml_text, plan, _ = done.stdout.partition("plan: 2 runs")
    assert "max_num_steps:" in yaml_text
    assert plan
    assert re.search(r"# --- r\w+ differs in: (\S+, )*grpo\.seed=2\n", yaml_text)
    assert done.stdout.endswith("dry run: nothing was submitted and nothing was written\n")


def test_a_dry_run_whose_reader_goes_away_is_no_error(tmp_path: Path) -> None:
    argv = [sys.executable, str(LAUNCH), "dry_run=true"]
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=limit(30)) == 0


def test_a_launch_imports_nothing_heavy(tmp_path: Path) -> None:
    argv = [sys.executable, "-X", "importtime", str(LAUNCH), "dry_run=true"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=limit(60))
    assert done.returncode == 0, done.stderr[-500:]
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "nano_exp.launch.flow" in imported
    tops = {name.split(".")[0] for name in imported}
    assert not tops & {"torch", "wandb", "ray", "transformers", "vllm", "matplotlib", "plotly", "pandas", "numpy"}
    assert everything_below(tmp_path) == []


# --- submit=false -----------------------------------------------------------------------------------------------------


def test_submit_false_freezes_the_runs_and_prints_what_to_type(tmp_path: Path, checkout: Path) -> None:
    wish = ("-m", *standin(checkout), "cluster=1n8g,2n8g", "grpo.seed=1,2")
    done = launch(tmp_path, *wish, "submit=false", PATH=str(tmp_path / "nothing"))  # there is no sbatch
    assert done.returncode == 0, done.stderr
    commands = [line.strip() for line in done.stdout.splitlines() if line.startswith("  sbatch ")]
    assert len(commands) == 2
    (made,) = (tmp_path / "results" / ".launches").glob("2*")
    for number, command in enumerate(commands):
        assert command.startswith(f"sbatch --array=0-1%2 --job-name=nx-{made.name}.{number}-nano_12b ")
        assert command.endswith(f"slurm/sweep.sbatch results/.launches/{made.name} {number}")
    assert ["--nodes=2" in command for command in commands] == [False, True]
    assert [state_of(run).kind for run in stored(tmp_path)] == ["frozen"] * 4
    assert [row.submit for row in convergence.make(frozen_points(tmp_path, checkout), False, Answer([])).rows] == [
        True
    ] * 2
    assert list(made.glob("job-*.json")) == []


def frozen_points(folder: Path, checkout: Path) -> list[Frozen]:
    return [freeze(point(*standin(checkout), f"grpo.seed={seed}"), folder) for seed in (1, 2)]


def test_a_recipe_file_is_launched_like_a_published_one_and_its_hash_is_kept(tmp_path: Path, checkout: Path) -> None:
    whole = (Path(__file__).parents[1] / "recipes" / "expected" / "v0.7.0" / "nano_12b_1n8g.json").read_text()
    (tmp_path / "twelve.yaml").write_text(whole)  # JSON is YAML
    (tmp_path / "mine.yaml").write_text("defaults: twelve.yaml\ngrpo: {max_num_steps: 5}\n")
    place = standin(checkout)[2:]
    done = launch(tmp_path, "-m", "recipe=mine.yaml", *place, "grpo.seed=1,2", "optimizer.lr=1e-6", "submit=false")
    assert done.returncode == 0, done.stderr
    found = stored(tmp_path)
    assert [run.record["name"] for run in found] == ["mine", "mine"]
    record = found[0].record
    assert record["recipe"] == str(tmp_path / "mine.yaml") and record["overrides"][0] == "recipe=mine.yaml"
    assert record["recipe_files"] == {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "mine.yaml", tmp_path / "twelve.yaml")
    }
    config = found[0].config()
    assert config["policy"]["megatron_cfg"]["optimizer"]["lr"] == 1e-6 and config["grpo"]["max_num_steps"] == 5
    refused = launch(tmp_path, "recipe=mime.yaml", *place)
    assert refused.returncode == 2 and "recipe=mime.yaml\n  why: there is no such file" in refused.stderr


@pytest.mark.parametrize("more", ["slurm.where=local", "wait=true"])
def test_submit_false_where_nothing_could_be_sent_or_waited_for(tmp_path: Path, checkout: Path, more: str) -> None:
    done = launch(tmp_path, *standin(checkout), "submit=false", more)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: submit=false with {more}\n")
    assert everything_below(tmp_path) == []


# --- what is in the way ---------------------------------------------------------------------------------------------


def test_without_sbatch_it_is_said_at_once(tmp_path: Path, checkout: Path) -> None:
    began = time.monotonic()
    done = launch(tmp_path, *standin(checkout), PATH=str(tmp_path / "nothing"))
    assert time.monotonic() - began < limit(10), "a second where nothing else runs"
    assert done.returncode == 2
    assert done.stderr.startswith("error: no sbatch on PATH\n")
    assert done.stderr.count("\n") == 3
    assert everything_below(tmp_path) == []


def test_a_results_folder_that_cannot_be_written(tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "file").write_text("")
    quiet = "ignore=[disk_free,metric_between_validations,model_there]"
    done = launch(tmp_path, *here(checkout), "run.results=file/results", quiet)
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: cannot write .+\n  why: .+ a file, not a folder\n  fix: .+run.results=.+\n", done.stderr
    )
    assert everything_below(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("points", "found"),
    [
        ([("model=nano_tiny", "cluster=local"), ("model=nano_tiny", "cluster=1n8g")], "slurm.where: local, slurm"),
        ([("run.results=/a",), ("run.results=/b",)], "run.results: /a, /b"),
    ],
)
def test_one_launch_goes_to_one_place(tmp_path: Path, points: list[tuple[str, ...]], found: str) -> None:
    with pytest.raises(UserError) as caught:
        launching.launch([point(*one) for one in points], {}, tmp_path)
    assert found in caught.value.found
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize("switch", ["dry_run=no", "fresh=1", "wait=off"])
def test_a_switch_is_true_or_false(tmp_path: Path, switch: str) -> None:
    """`no` is a word to Hydra: taken for true it would hide a launch, taken for false do one."""
    key = switch.partition("=")[0]
    with pytest.raises(UserError) as caught:
        launching.launch([point(switch)], {}, tmp_path)
    assert caught.value.fix == f"{key}=true or {key}=false"
    assert everything_below(tmp_path) == []


def test_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"slurm\.where=moon"):
        launching.launch([point("slurm.where=moon")], {}, tmp_path)


SILENT = {
    "no configuration": ("exit 1", "SLURM_CONF=/nonexistent does not exist"),
    "no controller": (
        "echo 'slurm_load: Unable to contact slurm controller (connect failure)' >&2; exit 1",
        "Unable to",
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_a_slurm_that_does_not_answer_is_said_before_anything_is_sent(
    tmp_path: Path, checkout: Path, case: str
) -> None:
    body, words = SILENT[case]
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "sinfo", "scontrol", "sacctmgr", "squeue"):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}"} | (
        {"SLURM_CONF": "/nonexistent"} if case == "no configuration" else {}
    )
    launched = tmp_path / "launched"
    launched.mkdir()
    done = launch(launched, *standin(checkout), **env)
    assert done.returncode == 4, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert everything_below(launched) == []


def test_a_secret_among_the_launchers_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        launching.launch([point()], {"setup": ["export HF_TOKEN=canary"]}, tmp_path)
    assert "hydra.launcher.setup" in caught.value.found
    assert "canary" not in str(caught.value)


def test_a_changed_default_is_shown_and_not_started(tmp_path: Path, checkout: Path) -> None:
    run = prepared(tmp_path, *here(checkout), where="local").arrays[0].rows[0].dir
    config = files.read_yaml(run / "config.yaml")
    set_dotted(config, "grpo.val_period", 99)
    files.write_text(run / "config.yaml", files.dump_yaml(config))
    files.write_json(run / "run.json", {**files.read_json(run / "run.json"), "digest": identity.digest(config)})
    run.rename(run.with_name(identity.run_id(identity.digest(config))))
    before = everything_below(tmp_path)
    done = launch(tmp_path, *here(checkout))
    assert done.returncode == 3
    assert re.search(r"grpo\.val_period +99 +10\n", done.stdout)
    assert "lost" not in done.stdout
    assert set(everything_below(tmp_path)) - set(before) == {"results/.launches/lock"}


# --- waiting ------------------------------------------------------------------------------------------------------


@pytest.fixture
def queued(tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A run that a stand-in for squeue has as running, and the file of squeue's answer."""
    prepared_launch = prepared(tmp_path, *standin(checkout))
    answer = tmp_path / "answer"
    answer.write_text(f"12|RUNNING|{prepared_launch.arrays[0].job_name}|None\n")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("squeue", f"cat {answer}"), ("sbatch", "exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return prepared_launch.arrays[0].rows[0].dir, answer


@pytest.mark.parametrize(("end", "code"), [("done", 0), ("failed", 1)])
def test_wait_waits_for_a_run_that_was_launched_before(
    tmp_path: Path,
    checkout: Path,
    queued: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: str,
    code: int,
) -> None:
    run, answer = queued
    wait, looked = until_ended.wait_for, []

    def finish() -> None:
        make_attempt(run, 1, runs.this_process("12"), {"kind": end, "why": "because"})
        answer.write_text("")

    timer = threading.Timer(0.5, finish)

    def waiting(rows: list[convergence.Row]) -> int:
        looked.extend(rows)
        timer.start()
        return wait(rows, poll_s=0.05)

    monkeypatch.setattr(until_ended, "wait_for", waiting)
    launched = launching.launch([point(*standin(checkout), "wait=true")], {}, tmp_path)
    timer.join()
    assert [row.dir for row in looked] == [run]
    out = capsys.readouterr().out
    assert "1 running), 0 to submit" in out
    assert f"{run.name}: {end} (because)" in out
    assert launched.code == code


def test_without_wait_nobody_waits(
    tmp_path: Path, checkout: Path, queued: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    launched = launching.launch([point(*standin(checkout))], {}, tmp_path)
    assert "nothing to submit" in capsys.readouterr().out
    assert launched.code == 0


# --- on this machine ------------------------------------------------------------------------------------------------


def test_a_sweep_runs_here_and_a_failed_run_is_told_and_goes_on(tmp_path: Path, checkout: Path) -> None:
    sweep = ["-m", *here(checkout), "grpo.seed=1,2", "slurm.parallel_local=2"]
    failed = launch(tmp_path, *sweep, STANDIN_MAKE_SECONDS="2", STANDIN_STEP_SECONDS="0.01", STANDIN_FAIL_AT_STEP="2")
    assert failed.returncode == 1, failed.stderr
    why = "RuntimeError: stand-in fault at step 2; engine: exit code 1; checkpoint of step 1 of 3)"
    assert failed.stdout.count(why) == 2
    assert failed.stdout.count("  fix         read the end of its log") == 2
    assert failed.stdout.count("stderr.log") == 2
    assert [state_of(run).kind for run in stored(tmp_path)] == ["failed", "failed"]
    done = launch(tmp_path, *sweep, STANDIN_STEP_SECONDS="0.01")
    assert done.returncode == 0, done.stderr
    assert "plan: 2 runs (2 failed), 2 to submit" in done.stdout
    assert [state_of(run).kind for run in stored(tmp_path)] == ["done", "done"]
    assert [steps(run.dir) for run in stored(tmp_path)] == [[1, 2, 3], [1, 2, 3]]
    assert done.stderr.count("done    r") == 2, "a line for each as it ends"


def test_runs_of_several_names_run_here_each_in_its_folder(tmp_path: Path, checkout: Path) -> None:
    done = launch(tmp_path, "-m", *here(checkout, "grpo.max_num_steps=1"), "run.name=a,b", STANDIN_STEP_SECONDS="0.01")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(run.name, state_of(run).kind) for run in stored(tmp_path)] == [("a", "done"), ("b", "done")]


def test_fresh_starts_beside_the_run_that_is_there(tmp_path: Path, checkout: Path) -> None:
    first = prepared(tmp_path, *here(checkout), where="local").arrays[0].rows[0]
    done = launch(tmp_path, *here(checkout), "fresh=true", STANDIN_STEP_SECONDS="0.01")
    # The intent of the first names this very process as its launcher, so it counts as waiting for its turn.
    assert done.returncode == 2
    assert "fresh=true, but 1 of the runs are active" in done.stderr
    runs.record_event(first.dir, "refused", launch="x", why="taken back")
    done = launch(tmp_path, *here(checkout), "fresh=true", STANDIN_STEP_SECONDS="0.01")
    assert done.returncode == 0, done.stderr
    assert {run.id: state_of(run).kind for run in stored(tmp_path)} == {first.id: "refused", f"{first.id}-2": "done"}


@pytest.fixture
def slow(tmp_path: Path, checkout: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A launch on this machine in the middle of its run, and the run's folder."""
    process = start_launch(tmp_path, *here(checkout), STANDIN_STEP_SECONDS="0.8")
    try:
        wait_for(lambda: stored(tmp_path) and steps(stored(tmp_path)[0].dir), "a first step")
        yield process, stored(tmp_path)[0].dir
    finally:
        process.kill()
        for run in stored(tmp_path):
            for owner in [a.owner for a in runs.attempts(run.dir) if a.owner]:
                if runs.local_alive(owner):
                    os.kill(owner.pid, signal.SIGKILL)


def owner_of(run: Path) -> int:
    owner = runs.attempts(run)[-1].owner
    assert owner is not None
    return owner.pid


def test_ctrl_c_ends_the_run_whole_and_the_same_command_completes_it(
    tmp_path: Path, checkout: Path, slow: tuple[subprocess.Popen[str], Path]
) -> None:
    process, run = slow
    attempt = owner_of(run)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    out, _ = process.communicate(timeout=limit(30))
    assert process.returncode == 130, out
    assert "Traceback" not in out
    assert f"{run.name}: stopped (SIGTERM; checkpoint of step" in out
    assert out.endswith("the same command goes on from there\n")
    assert runs.process_start(attempt) is None
    assert state_of(runs.load(run)).kind == "stopped"
    done = launch(tmp_path, *here(checkout), STANDIN_STEP_SECONDS="0.01")
    assert done.returncode == 0, done.stderr
    assert "plan: 1 run (1 stopped), 1 to submit" in done.stdout
    assert f"\n{run.name}: done\n" in done.stdout
    assert "(2 attempts)" in done.stdout
    assert steps(run) == [1, 2, 3]


@pytest.mark.parametrize(
    ("module", "told"),
    [("traceback", (-signal.SIGINT, "")), ("hydra", (130, "\nCtrl-C: nothing more was done\n"))],
)
def test_ctrl_c_while_modules_load_is_no_traceback(
    module: str, told: tuple[int, str], tmp_path: Path, checkout: Path
) -> None:
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = start_launch(tmp_path, *here(checkout), PYTHONPATH=str(tmp_path))
    out, _ = process.communicate(timeout=limit(30))
    assert (process.returncode, out) == told


def test_packages_of_the_launcher_go_along_and_a_run_that_never_started_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A PYTHONPATH given to the launcher holds what the attempt needs too; the launch's own code comes before it."""
    packages = tmp_path / "packages"
    (packages / "nano_exp").mkdir(parents=True)
    (packages / "nano_exp" / "__init__.py").write_text("raise SystemExit('edited code ran')\n")
    (packages / "yaml.py").write_text("raise SystemExit('the yaml of the launcher')\n")
    ready = prepared(tmp_path, *standin(), where="local")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.chdir(tmp_path)
    (row,) = ready.arrays[0].rows
    assert local.execute(ready, 1) == {str(row.dir): "failed"}
    said = capsys.readouterr().err
    log = ready.dir.relative_to(tmp_path) / "local" / "0-0.log"
    assert said.endswith(f"{row.id} never started: the yaml of the launcher\n  its log: {log}\n") and log.is_file()
    assert show.result_lines(row.dir)[0] == f"{row.id}: not started"


def test_ctrl_c_twice_kills(slow: tuple[subprocess.Popen[str], Path]) -> None:
    process, run = slow
    attempt = owner_of(run)
    os.kill(attempt, signal.SIGSTOP)  # it will not end by itself
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(paced(0.5))
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=limit(20))
    assert process.returncode == 130, out
    assert "Ctrl-C again: killing" in out
    wait_for(lambda: runs.process_start(attempt) is None, "the attempt's end")
    assert state_of(runs.load(run)).kind == "lost"


def test_a_killed_launcher_loses_no_run_and_none_is_started_twice(
    tmp_path: Path, checkout: Path, slow: tuple[subprocess.Popen[str], Path]
) -> None:
    process, run = slow
    attempt = owner_of(run)
    os.kill(attempt, signal.SIGSTOP)  # so that it is not over before the second launch has looked
    process.kill()
    process.communicate()
    again = launch(tmp_path, *here(checkout))
    os.kill(attempt, signal.SIGCONT)
    assert again.returncode == 0, again.stderr
    assert "plan: 1 run (1 running), 0 to submit" in again.stdout
    assert "nothing to submit" in again.stdout
    assert "lost" not in again.stdout
    wait_for(lambda: state_of(runs.load(run)).kind == "done", "the run's end without its launcher")
    assert [a.number for a in runs.attempts(run)] == [1]
    assert steps(run) == [1, 2, 3]


# --- named sweeps ---------------------------------------------------------------------------------------------------


def test_a_named_sweep_needs_no_m_and_lists_what_it_skips(tmp_path: Path, checkout: Path) -> None:
    rule = "sweep.constraints=[{require: 'grpo.num_generations_per_prompt < 16', because: memory}]"
    done = launch(tmp_path, "sweeps=lr_x_generations", *standin(checkout), "++optimizer.lr=3e-6", rule, "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("skipped: 1 point without grpo.num_generations_per_prompt < 16\n  why: memory\n")
    assert "\n    num_generations_per_prompt\n    16\n" in done.stdout
    assert "\nplan: 2 runs (2 new), 2 to submit\n" in done.stdout
    assert "#SBATCH --array=0-1%2" in done.stdout
    assert "-lr_x_generations" in done.stdout
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize("sweep", [(), ("-m", "optimizer.lr=1e-3,2e-3")])
@pytest.mark.parametrize("typed", ["${nope.x}", "${nope:3}", "${oc.env:NANO_EXP_NOT_SET}"])
def test_an_interpolation_of_nothing_is_named_with_its_key(tmp_path: Path, typed: str, sweep: tuple[str, ...]) -> None:
    done = launch(tmp_path, *sweep, f"grpo.seed={typed}", "dry_run=true")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: grpo.seed is {typed}\n"), done.stderr


@pytest.mark.parametrize(
    ("typed", "fix"),
    [("sweeps=lrr", "sweeps=lr"), ("sweeps=null", "leave sweeps=null out"), ("+sweeps=lr", "sweeps=lr")],
)
def test_a_mistyped_sweep_is_refused_with_the_nearest(tmp_path: Path, typed: str, fix: str) -> None:
    done = launch(tmp_path, typed)
    assert done.returncode == 2
    assert done.stderr.endswith(f"fix: {fix}\n")
    assert everything_below(tmp_path) == []
