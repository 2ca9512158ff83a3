"""Set-up lines of a batch script: one that fails is the cause of its run's failure, in its own words."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from core_case import copy_standin, environment, prepared, standin
from pace import limit

from nano_exp.slurm import setup_lines
from nano_exp.store import runs


def script(folder: Path, lines: list[str], modules: tuple[str, ...] = ()) -> tuple[Path, Path]:
    """The batch script of a launch with these set-up lines, and its run's folder."""
    places = standin(copy_standin(folder / "standin"))
    sites = [f"site.setup={quoted(lines)}", f"site.modules={quoted(modules)}"]
    launch = prepared(folder, *places, "grpo.max_num_steps=1", "engine.ray_address=none", *sites)
    return launch.dir / "array-0.sbatch", launch.arrays[0].rows[0].dir


def quoted(words: Any) -> str:
    return "[" + ",".join("'" + word.replace("'", "\\'") + "'" for word in words) + "]"


def sent(path: Path) -> str:
    """The script run as Slurm runs it, with a file for all output; what was printed."""
    log = path.with_suffix(".out")
    with log.open("ab") as out:
        env = environment(SLURM_JOB_ID=None, STANDIN_STEP_SECONDS="0.01")
        subprocess.run(["bash", path], cwd="/", env=env, stdout=out, stderr=out, timeout=limit(60), check=False)
    return log.read_text()


@pytest.mark.parametrize(
    ("line", "command", "code", "words"),
    [
        ("conda activate nemo", "conda activate nemo", 127, "conda: command not found"),
        ("source /no/such/venv/bin/activate", "source /no/such/venv/bin/activate", 1, "No such file or directory"),
        ("cd /no/such || exit 3", "exit 3", 3, "No such file or directory"),
        ("set -e; false", "false", 1, ""),
        ("exit", "exit", 0, ""),
    ],
)
def test_a_line_that_fails_ends_the_attempt_and_is_its_cause(
    tmp_path: Path, line: str, command: str, code: int, words: str
) -> None:
    path, run = script(tmp_path, ["echo earlier", line, "echo never"])
    printed = sent(path)
    assert "never" not in printed
    (attempt,) = runs.attempts(run)
    end = attempt.end
    assert end is not None, printed
    assert (end["kind"], end["exit_code"]) == ("failed", code or 1)
    assert end["why"] == f"site.setup: `{command}` ended with exit code {code}"
    assert end["diagnosis"]["cause"] == "node_setup" and end["diagnosis"]["fault"] == "user"
    assert command in end["diagnosis"]["title"]
    assert "site.setup" in end["diagnosis"]["remedy"]
    assert any(words in shown for shown in end["diagnosis"]["lines"])
    assert words in (attempt.dir / "stderr.log").read_text()
    assert not (attempt.dir / "nemo_rl.yaml").exists(), "the engine was not started"


def test_modules_where_there_is_no_module_command(tmp_path: Path) -> None:
    path, run = script(tmp_path, [], ("cuda/12.9",))
    sent(path)
    end = runs.attempts(run)[0].end
    assert end is not None
    assert end["why"] == "site.setup: `module load cuda/12.9` ended with exit code 127"
    assert any("module: command not found" in line for line in end["diagnosis"]["lines"])


def test_lines_that_succeed_or_may_fail_change_nothing(tmp_path: Path) -> None:
    sourced = tmp_path / "profile.sh"
    sourced.write_text("false\nexport FROM_PROFILE=1\n")
    lines = [f". {sourced}", "[ -f /no/such ] && . /no/such", "false || true", "if false; then", "  false", "fi"]
    path, run = script(tmp_path, [*lines, "helper() { false; true; }", "helper", "echo $FROM_PROFILE of the profile"])
    printed = sent(path)
    assert "1 of the profile" in printed
    end = runs.attempts(run)[0].end
    assert end is not None and end["kind"] == "done", printed


def test_without_set_up_lines_nothing_is_guarded() -> None:
    assert setup_lines.guarded([], "exec true") == []


def test_a_word_that_is_none_is_nobodys_failure(tmp_path: Path) -> None:
    environ = {setup_lines.VARIABLE: "odd"}
    assert setup_lines.failed(environ) is None and environ == {}
    assert setup_lines.failed({}) is None
    log = tmp_path / "out"
    log.write_text("".join(f"line {n}\n" for n in range(20)))
    found = setup_lines.failed({setup_lines.VARIABLE: "2 module load a b"}, log)
    assert found == setup_lines.Failed(2, "module load a b", tuple(f"line {n}" for n in range(12, 20)))


def test_no_secret_of_a_line_is_told() -> None:
    token = "hf_" + "a" * 30
    assert token not in setup_lines.Failed(1, f"login {token}", (f"bad token {token}",)).for_log("node1")
