"""`nano-exp`: status, logs and render, on a real finished run and on folders made by hand."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from core_case import (
    Answer,
    Finished,
    dead_process,
    environment,
    everything_below,
    intend,
    make_attempt,
    make_run,
    nano_exp,
    wait_for,
)
from pace import limit

import nano_exp as nano_exp_package
from nano_exp import cli, commands
from nano_exp.report import logs, status, table
from nano_exp.store import runs


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """`nano-exp ARGUMENTS` in this process: exit code, stdout, stderr."""
    code = cli.main([str(a) for a in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def three_parts(text: str) -> re.Match[str]:
    found = re.fullmatch(r"error: (.+)\n  why: (.+)\n  fix: (.+)\n", text)
    assert found, text
    return found


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_of_a_finished_run(finished: Finished) -> None:
    done = nano_exp(finished.folder, "status")
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()
    assert header.split() == ["name", "run", "state", "step", "reward", "validation", "GPU-h", "age", "what"]
    assert row.split()[:4] == ["nano_tiny", finished.run.name, "done", "2/2"]
    assert re.search(r"2/2 +\d\.\d{3} +\d\.\d{3} +- +\d+ (s|min)", row)


def test_status_for_scripts(finished: Finished) -> None:
    done = nano_exp(Path("/"), "status", "--json", "--results", str(finished.folder / "results"))
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    assert whole["slurm_error"] is None
    (row,) = whole["runs"]
    assert (row["name"], row["run"], row["state"], row["step"], row["max_steps"]) == (
        "nano_tiny",
        finished.run.name,
        "done",
        2,
        2,
    )
    assert isinstance(row["reward"], float)
    assert 0 <= row["validation_accuracy"] <= 1
    assert 0 <= row["age_s"] < 3600
    assert "grpo.max_num_steps=2" in row["overrides"]
    assert Path(row["dir"]) == finished.run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two names, three runs: a stopped one, a failed one with logs, and one that never started."""
    results = tmp_path / "results"
    first = make_run(results, name="lr", run="r1aaaaaaaaa", record={"overrides": ["grpo.seed=1", "optimizer.lr=1e-6"]})
    make_attempt(first, 1, dead_process(), {"kind": "stopped", "why": "SIGINT; no checkpoint yet"})
    second = make_run(results, name="lr", run="r1bbbbbbbbb", record={"overrides": ["grpo.seed=1", "optimizer.lr=2e-6"]})
    for number, text in ((1, "one\n"), (2, "zwei é 📊\n")):
        made = make_attempt(second, number, dead_process(), {"kind": "failed", "why": "engine: exit code 1"})
        (made / "stdout.log").write_text(text)
        (made / "stderr.log").write_text("".join(f"line {n}\n" for n in range(40)))
        (made / "attempt.log").write_text(f"attempt {number}\n")
    make_run(results, name="other", run="r2ccccccccc")
    return results


def test_runs_are_named_by_name_by_id_and_by_the_first_letters(store: Path) -> None:
    def ids(*words: str) -> list[str]:
        return [line.run for line in status.lines(store, list(words), Answer([]))]

    assert ids() == ["r1aaaaaaaaa", "r1bbbbbbbbb", "r2ccccccccc"]
    assert ids("lr") == ["r1aaaaaaaaa", "r1bbbbbbbbb"]
    assert ids("r2") == ["r2ccccccccc"]
    assert ids("r1b", "other") == ["r1bbbbbbbbb", "r2ccccccccc"]
    assert ids("lr", "r1a") == ["r1aaaaaaaaa", "r1bbbbbbbbb"], "each run once"


def test_what_all_runs_of_a_name_share_is_left_out(store: Path) -> None:
    shown = table.table(status.lines(store, ["lr"], Answer([])))
    header, stopped, _ = shown.splitlines()
    assert header.split() == ["name", "run", "state", "step", "lr", "reward", "validation", "GPU-h", "age", "what"]
    assert stopped.split()[4] == "1e-6"
    assert "[SIGINT; no checkpoint yet; nano-exp retry r1aaaaaaaaa]" in stopped


def test_an_unknown_word_is_answered_with_the_nearest(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "status", "othr", "--results", store)
    assert (code, out) == (2, "")
    parts = three_parts(err)
    assert "othr" in parts[1]
    assert parts[2] == "names there: lr, other"
    assert parts[3] == "nano-exp status other"


def test_an_empty_folder_says_where_runs_are_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "status", "--results", tmp_path / "none")
    assert code == 2
    assert "NANO_EXP_RESULTS" in three_parts(err)[2]
    assert everything_below(tmp_path) == []


def test_the_environment_names_the_results(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANO_EXP_RESULTS", str(store))
    code, out, _ = said(capsys, "status", "other")
    assert code == 0
    assert "r2ccccccccc" in out


def test_a_damaged_run_is_a_row_of_its_own(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "lr" / "r1aaaaaaaaa" / "run.json").write_text("{")
    code, out, _ = said(capsys, "status", "--results", store)
    assert code == 0
    rows = {line.split()[1]: line for line in out.splitlines()[1:]}
    assert rows["r1aaaaaaaaa"].split()[2] == "damaged"
    assert "run.json is not JSON" in rows["r1aaaaaaaaa"]
    assert rows["r1bbbbbbbbb"].split()[2] == "failed"


def test_when_slurm_is_silent_it_is_said_and_the_rest_is_shown(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    intend(store / "other" / "r2ccccccccc")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, _ = said(capsys, "status", "--results", store)
    assert code == 0
    assert "Slurm does not answer (squeue is not on PATH)" in out
    assert re.search(r"r2ccccccccc +unknown", out)
    assert re.search(r"r1aaaaaaaaa +stopped", out)
    code, out, _ = said(capsys, "status", "--json", "--results", store)
    assert json.loads(out)["slurm_error"] == "squeue is not on PATH"


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["logs", "r1b"], ["render"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(store: Path, arguments: list[str]) -> None:
    code = "import sys; from nano_exp.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment(NANO_EXP_RESULTS=str(store)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(timeout=limit(30)) == 0
    assert "BrokenPipe" not in err
    assert "Traceback" not in err


# --- logs -----------------------------------------------------------------------------------------------------------


def test_logs_of_a_finished_run(finished: Finished) -> None:
    done = nano_exp(finished.folder, "logs", finished.run.name[:4])
    assert done.returncode == 0, done.stderr
    assert done.stdout == (finished.run / "attempts" / "1" / "stdout.log").read_text()
    assert done.stderr == "--- attempt 1: done\n"


def test_the_newest_attempts_output_and_the_end_of_its_errors(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "logs", "r1b", "--results", store)
    assert (code, out) == (0, "zwei é 📊\n")
    assert err.startswith("--- attempt 2: failed engine: exit code 1\n")
    assert "line 39\n" in err
    assert "line 19\n" not in err, "the last twenty"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--attempt", "1"], "one\n"),
        (["--stream", "attempt"], "attempt 2\n"),
        (["--stream", "err", "--attempt", "1"], "line 0\n"),
    ],
)
def test_another_attempt_and_another_stream(
    store: Path, capsys: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    code, out, _ = said(capsys, "logs", "r1b", *options, "--results", store)
    assert code == 0
    assert out.startswith(text)


REFUSED = {
    "several runs": (["logs", "lr"], "'lr' stands for 2 runs: r1aaaaaaaaa, r1bbbbbbbbb"),
    "letters that two begin with": (["logs", "r1"], "'r1' stands for 2 runs"),
    "no such attempt": (["logs", "r1b", "--attempt", "7"], "r1bbbbbbbbb has no attempt 7"),
    "follow one attempt": (["logs", "r1b", "-f", "--attempt", "1"], "-f with --attempt"),
}


@pytest.mark.parametrize(("arguments", "found"), REFUSED.values(), ids=REFUSED.keys())
def test_what_logs_cannot_show(
    store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], found: str
) -> None:
    code, out, err = said(capsys, *arguments, "--results", store)
    assert (code, out) == (2, "")
    assert found in three_parts(err)[1]


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """A run on two nodes that array task 39_2 began and job 41 went on with."""
    results = tmp_path / "sent"
    folder = make_run(results, run="r5", record={"launch": "L"})
    intend(folder, array=0, task=2)
    launched = runs.launch_dir(results, "L")
    (launched / "slurm").mkdir(parents=True)
    manifest = {"arrays": [{"runs": ["", "", str(folder)]}]}
    (launched / "manifest.json").write_text(json.dumps(manifest))
    runs.record_job(results, "L", 0, "39")
    for name in ("39_2_0_log.out", "39_20_0_log.out"):
        (launched / "slurm" / name).write_text("Slurm's own\n")
    for number, job in ((1, "39_2"), (2, "41")):
        made = make_attempt(folder, number, runs.Owner(job, 0, "gpu01", 7, 1.0), {"kind": "stopped"})
        (made / "stdout.log").write_text(f"by job {job}\n")
        (made / "nodes").mkdir()
        for host in ("gpu01", "gpu02"):
            (made / "nodes" / f"{host}.log").write_text(f"{host} in {job}\n")
    return results


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["r5"], "by job 41"),
        (["39_2"], "by job 39_2"),
        (["39_2", "--attempt", "2"], "by job 41"),
        (["r5", "--node", "gpu02"], "gpu02 in 41"),
        (["39", "--node", "gpu01", "--attempt", "1"], "gpu01 in 39_2"),
    ],
)
def test_logs_by_slurms_number_and_of_a_node(
    sent: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    code, out, _ = said(capsys, "logs", *arguments, "--results", sent)
    assert (code, out) == (0, f"{text}\n")


def test_a_node_that_the_attempt_did_not_have(sent: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "logs", "r5", "--node", "gpu03", "--results", sent)
    assert code == 2
    assert three_parts(err)[2] == "the nodes of this attempt: gpu01, gpu02"
    assert three_parts(err)[3] == "one of these: --node gpu01, --node gpu02"
    code, _, err = said(capsys, "logs", "r1b", "--node", "gpu01", "--results", store)
    assert code == 2
    assert "no logs of nodes" in three_parts(err)[1]


def test_every_path_of_a_run(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "open", "39_2", "--json", "--results", sent)
    assert code == 0
    found = json.loads(out)
    folder = sent / "name" / "r5"
    assert found["folder"] == str(folder)
    assert found["attempt 1 stdout.log"] == str(folder / "attempts" / "1" / "stdout.log")
    assert found["attempt 2 nodes/gpu02.log"] == str(folder / "attempts" / "2" / "nodes" / "gpu02.log")
    assert found["launch L script"] == str(sent / ".launches" / "L" / "array-0.sbatch")
    assert found["launch L 39_2_0_log.out"] == str(sent / ".launches" / "L" / "slurm" / "39_2_0_log.out")
    assert "launch L 39_20_0_log.out" not in found, "another task's"
    code, out, _ = said(capsys, "open", "r5", "--results", sent)
    assert re.search(rf"^metrics +{folder}/metrics.jsonl  \(not there\)$", out, re.MULTILINE)
    assert re.search(rf"^config +{folder}/config.yaml$", out, re.MULTILINE)


def test_the_paths_of_a_damaged_run(sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sent / "name" / "r5" / "config.yaml").write_text("{")
    code, out, _ = said(capsys, "open", "r5", "--results", sent)
    assert code == 0
    assert "checkpoints" not in out


def test_logs_before_the_first_attempt(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "logs", "other", "--results", store)
    assert (code, out) == (1, "")
    assert "never submitted" in err
    intend(store / "other" / "r2ccccccccc")
    code, _, err = said(capsys, "logs", "other", "--results", store)
    assert code == 1
    assert ".launches/L/slurm" in err


def test_a_log_that_grows_is_followed_into_the_next_attempt(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    intend(folder)
    out, over = io.StringIO(), threading.Event()
    ended: list[int] = []
    run = runs.load(folder)

    def follow() -> None:
        ended.append(logs.follow(run, "stdout.log", out, over.is_set, 0.02))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    first = make_attempt(folder, 1, dead_process())
    emoji = "📊".encode()
    with (first / "stdout.log").open("ab", buffering=0) as file:
        file.write(b"one\n" + emoji[:2])
        wait_for(lambda: "one" in out.getvalue(), "the first line")
        file.write(emoji[2:] + b"\n")
        wait_for(lambda: "📊" in out.getvalue(), "a character that came in two parts")
    (first / "end.json").write_text('{"kind": "stopped"}')
    time.sleep(0.1)
    assert thread.is_alive(), "the run is not over"
    # The last words of an attempt and the next attempt may come between two looks.
    second = first.with_name("2")
    staged = make_attempt(make_run(tmp_path, run="staged"), 2, dead_process())
    (staged / "stdout.log").write_text("three\n")
    with (first / "stdout.log").open("a") as file:
        file.write("two\n")
        file.flush()
        staged.rename(second)
    wait_for(lambda: "three" in out.getvalue(), "the next attempt")
    (second / "end.json").write_text('{"kind": "done"}')
    over.set()
    thread.join(timeout=limit(5))
    assert ended == [0]
    assert out.getvalue() == "one\n📊\ntwo\nthree\n"


# --- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nano-exp st", {"status", "study"}),
        ("nano-exp status ", {"lr", "other", "r1aaaaaaaaa", "r1bbbbbbbbb", "r2ccccccccc"}),
        ("nano-exp status r1", {"r1aaaaaaaaa", "r1bbbbbbbbb"}),
        ("nano-exp retry lr r2", {"r2ccccccccc"}),
        ("nano-exp logs r1aaaaaaaaa --str", {"--stream"}),
    ],
)
def test_tab_completes_commands_names_and_runs(store: Path, line: str, words: set[str]) -> None:
    answer = store.parent / "answer"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    done = nano_exp(store.parent, **asked, _ARGCOMPLETE_STDOUT_FILENAME=str(answer))
    assert done.returncode == 0, done.stderr
    found = {word.strip() for word in answer.read_text().split("\n")}
    assert {word for word in found if word and not (word.startswith("-") and "--" not in line)} == words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_code_for_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "completion", shell)
    assert code == 0
    assert "nano-exp" in out
    if shell == "bash":
        subprocess.run(["bash", "-c", f"{out}\ncomplete -p nano-exp"], check=True)


# --- render ---------------------------------------------------------------------------------------------------------


def render(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    code, out, err = said(capsys, "render", *overrides)
    assert (code, err) == (0, "")
    return dict(yaml.safe_load(out))


def test_render_writes_nemo_rls_sections_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = render(capsys, "model=nano_9b", "cluster=1n8g", "optimizer.lr=1e-6")
    assert set(config) == {"grpo", "loss_fn", "policy", "data", "env", "logger", "checkpointing", "cluster"}
    assert config["policy"]["megatron_cfg"]["optimizer"]["lr"] == 1e-6
    assert "${" not in str(config)
    assert everything_below(tmp_path) == []


def test_render_is_what_the_run_got(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.folder)
    overrides = json.loads((finished.run / "run.json").read_text())["overrides"]
    got = yaml.safe_load((finished.run / "attempts" / "1" / "nemo_rl.yaml").read_text())
    for key in ("config", "notes", "job_type"):  # what the attempt tells W&B of the run
        del got["logger"]["wandb"][key]
    assert render(capsys, *overrides) == got


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("model=nano_9", "model=nano_9b"),
        ("grpo.sed=1", "grpo.seed=1"),
        ("grpo.seed=1,2", "one"),
        ("++a.token=canary", "export"),
    ],
)
def test_render_refuses_as_a_launch_does(capsys: pytest.CaptureFixture[str], override: str, fix: str) -> None:
    code, out, err = said(capsys, "render", override)
    assert (code, out) == (2, "")
    assert fix in three_parts(err)[3]
    assert "canary" not in err


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for command in ("status", "watch", "logs", "open", "cancel", "retry", "render", "completion"):
        assert re.search(rf"^ +{command}\s+\S", out, re.MULTILINE)


def test_without_a_command_the_help_has_them_in_groups_each_with_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    made = cli.parser()
    assert [name for names in made.groups.values() for name in names] == list(made.commands.choices)
    for title, names in made.groups.items():
        assert f"\n\n{title}\n" in out
        for name in names:
            example = made.commands.choices[name].epilog
            assert example, f"{name} has no epilog: an example, a line"
            assert f"\n              {example}\n" in out
            assert f"nano-exp {name}" in example


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    version, conf, whose = capsys.readouterr().out.splitlines()
    assert version == f"nano-exp {nano_exp_package.__version__}"
    assert conf == f"conf: {Path(nano_exp_package.__file__).parents[1] / 'conf'}"
    assert whose == "project: this checkout"


@pytest.mark.parametrize("words", [["--sort", "-reward"], ["--sort=-reward"], ["--sort", "-reward", "--json"]])
def test_status_is_sorted_downwards_as_the_documentation_says(store: Path, words: list[str]) -> None:
    assert cli.main(["status", *words, "--results", str(store)]) == 0


def test_recipes_are_listed_with_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "recipes", "list")
    assert code == 0
    header, *rows = out.splitlines()
    assert header.startswith("python launch.py ...")
    found = {row.split("  ")[0]: row for row in rows}
    assert "v0_5 v0_6 v0_7 main" in found["model=nano_9b cluster=2n8g"]
    assert found["model=nano_9b cluster=2n8g"].endswith("grpo_workplace_assistant_nemotron_nano_v2_9b.yaml")
    assert "recipe=grpo-nanov3-30BA3B-2n8g-fsdp2-lora" in found
    assert said(capsys, "recipes", "list", "--json")[1].startswith("[")


def test_the_help_loads_no_module_that_does_work() -> None:
    code = "import sys; from nano_exp import cli; cli.parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    loaded = set(done.stdout.split())
    assert loaded >= {f"nano_exp.commands.{name}" for name in cli.COMMANDS}
    slow = {
        "yaml",
        "omegaconf",
        "hydra",
        "submitit",
        "nano_exp.store.runs",
        "nano_exp.compose.compose",
        "nano_exp.report.status",
    }
    assert not loaded & slow


def test_a_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["statsu", "nano_9b"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: nano-exp statsu\n")
    assert "  fix: nano-exp status nano_9b" in said
    assert cli.main(["zzz"]) == 2
    assert "  fix: nano-exp --help" in capsys.readouterr().err


def test_each_command_is_in_the_module_of_its_name() -> None:
    modules = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules == set(cli.COMMANDS) == set(cli.parser().commands.choices)
