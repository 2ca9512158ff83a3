"""env.yaml: what is read of it, what is refused without being shown, and how its values reach the engine alone."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_case import (
    TINY,
    attempt,
    holding,
    launch,
    nano_exp,
    prepared,
    sha256_line,
    standin,
    start_launch,
    wait_for,
)

from nano_exp import credentials, files, project
from nano_exp import environment as module
from nano_exp.errors import UserError
from nano_exp.launch import job_arrays
from nano_exp.store import runs

CANARY = "canary-77c1e04b"
PLACE = Path("/where/env.yaml")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    credentials._remembered.clear()


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / module.FILE
    path.write_text(text)
    path.chmod(mode)
    return path


# --- its text -------------------------------------------------------------------------------------------------------


def test_values_are_taken_as_they_are_written() -> None:
    text = """
# a comment
HF_TOKEN: hf_x
PIN: 0123
BIG: 1234567890123456789012345678901234567890
RATE: 1e5
ON: yes
QUOTED: "a: b # c"
_lower: 'it''s'
LINES: |
  first
  second
"""
    assert module.parse(text, PLACE) == {
        "HF_TOKEN": "hf_x",
        "PIN": "0123",
        "BIG": "1234567890123456789012345678901234567890",
        "RATE": "1e5",
        "ON": "yes",
        "QUOTED": "a: b # c",
        "_lower": "it's",
        "LINES": "first\nsecond\n",
    }


@pytest.mark.parametrize("text", ["", "# all of it\n# is a comment\n", "{}"])
def test_a_file_without_names_gives_none(text: str) -> None:
    assert module.parse(text, PLACE) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"HF_TOKEN={CANARY}\n", "not a mapping"),
        (f"- {CANARY}\n", "not a mapping"),
        (f"A: x\nB: '{CANARY}\n", "line 3 is not YAML"),
        (f"A: {CANARY}: {CANARY}\n", "line 1 is not YAML"),
        (f"A: @{CANARY}\n", "line 1 is not YAML"),
        (f"A: x\n\tB: {CANARY}\n", "is not YAML"),
        (f"A: x\n---\nB: {CANARY}\n", "is not YAML"),
        (f"A: *{CANARY}\n", "line 1 is not YAML"),
        (f"A: x\nMY-{CANARY}: x\n", "line 2: not the name"),
        (f"1{CANARY}: x\n", "line 1: not the name"),
        (f"? [{CANARY}]\n: x\n", "not the name"),
        (f"<<: {{A: {CANARY}}}\n", "not the name"),
        (f"A: [{CANARY}]\n", "line 1: A is a list"),
        (f"A:\n  B: {CANARY}\n", "line 1: A is a list or a mapping"),
        (f"B: {CANARY}\nA:\n", "line 2: A has no value"),
        ("A: null\n", "A has no value"),
        ("A: ''\n", "A has no value"),
        (f"A: {CANARY}\nB: x\nA: {CANARY}\n", "line 3: A is given twice"),
        (f'A: "{CANARY}\\0"\n', "A has a character"),
        (f'A: "{CANARY}\\ud800"\n', ""),
        ("A: " + "[" * 5000 + CANARY, ""),
    ],
)
def test_what_is_no_environment_is_refused_by_its_line_and_not_shown(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        module.parse(text, PLACE)
    assert str(PLACE) in caught.value.found
    assert words in caught.value.found
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None  # a traceback would show the YAML error's excerpt


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "")
    path.write_bytes(b"A: \xff" + CANARY.encode())
    with pytest.raises(UserError, match="not UTF-8") as caught:
        module.read(path)
    assert CANARY not in str(caught.value)


def test_the_example_is_read_as_it_is_and_with_its_lines_taken_in(tmp_path: Path) -> None:
    text = (project.BASE / "env.example.yaml").read_text()
    assert module.parse(text, PLACE) == {}
    lines = [line.removeprefix("# ") for line in text.splitlines()]
    names = [line for line in lines if line.split(":")[0].isupper() and line.count(": ") == 1]
    assert set(module.parse("\n".join(names), PLACE)) >= {"HF_TOKEN", "WANDB_API_KEY"}


# --- whose it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o777])
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, f"A: {CANARY}", mode)
    with pytest.raises(UserError) as caught:
        module.read(path)
    assert f"mode {mode:04o}" in caught.value.found
    assert caught.value.fix == f"chmod 600 {path}"
    assert credentials.redact(CANARY) == CANARY  # nothing of it was taken in


@pytest.mark.parametrize("mode", [0o600, 0o700])
def test_a_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert module.read(written(tmp_path, f"A: {CANARY}", mode)) == {"A": CANARY}


def test_somebody_elses_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, f"A: {CANARY}")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(UserError, match="belongs to user"):
        module.read(path)


def test_a_link_is_as_private_as_what_it_leads_to(tmp_path: Path) -> None:
    target = written(tmp_path, f"A: {CANARY}")
    link = tmp_path / "link.yaml"
    link.symlink_to(target)
    assert module.read(link) == {"A": CANARY}
    target.chmod(0o644)
    with pytest.raises(UserError, match="open to others"):
        module.read(link)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path):
        with pytest.raises(UserError, match="is not a file"):
            module.read(path)


def test_a_file_that_is_gone_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        module.read(tmp_path / "env.yaml")
    assert f"{tmp_path / 'env.yaml'} is not there" in caught.value.found
    assert "nano-exp retry" in caught.value.fix


# --- where it is ----------------------------------------------------------------------------------------------------


def test_the_launch_folder_comes_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.VARIABLE, raising=False)
    here, checkout = tmp_path / "here", tmp_path / "checkout"
    here.mkdir()
    checkout.mkdir()
    assert module.find(here, checkout) is None
    beside = written(checkout, "A: x")
    assert module.find(here, checkout) == beside
    own = written(here, "A: y")
    assert module.find(here, checkout) == own
    monkeypatch.setenv(module.VARIABLE, "../checkout/env.yaml")
    assert module.find(here, checkout) == here / "../checkout/env.yaml"
    monkeypatch.setenv(module.VARIABLE, "")
    assert module.find(here, checkout) is None


def test_a_named_file_that_is_not_there_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.VARIABLE, "none.yaml")
    with pytest.raises(UserError, match=r"NANO_EXP_ENV=none\.yaml"):
        module.find(tmp_path)


def test_a_link_to_nowhere_is_found_and_then_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.VARIABLE, raising=False)
    (tmp_path / module.FILE).symlink_to(tmp_path / "gone")
    found = module.find(tmp_path, tmp_path)
    assert found is not None
    with pytest.raises(UserError, match="is not there"):
        module.read(found)


# --- into the environment -------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, f"NEW: {CANARY}\nOLD: {CANARY}-2\nEMPTY: x\n")
    target = {"OLD": "inherited", "EMPTY": ""}
    line = module.enter(path, target)
    assert target == {"NEW": CANARY, "OLD": "inherited", "EMPTY": ""}
    assert line == f"{path} gives NEW; set in the environment, which wins: EMPTY, OLD"


def test_what_was_read_is_taken_out_of_texts_and_refused_in_configs(tmp_path: Path) -> None:
    module.read(written(tmp_path, f"JUDGE: {CANARY}\nSHORT: abc\nKEY: |\n  -----BEGIN-----\n  line-of-a-key\n"))
    said = credentials.redact(f"at {CANARY}! line-of-a-key abc")
    assert said == f"at {credentials.REMOVED}! {credentials.REMOVED} abc"
    with pytest.raises(UserError) as caught:
        credentials.refuse({"env": {"judge": {"header": f"Bearer {CANARY}"}}})
    assert "env.judge.header" in caught.value.found
    assert "JUDGE" in caught.value.found
    assert CANARY not in str(caught.value)


# --- launches -------------------------------------------------------------------------------------------------------


def test_a_launch_refuses_an_open_file_and_writes_nothing(tmp_path: Path, checkout: Path) -> None:
    path = written(tmp_path, f"HF_TOKEN: {CANARY}\n", 0o644)
    for more in ([], ["dry_run=true"]):
        done = launch(tmp_path, *standin(checkout), "slurm.where=local", *more, NANO_EXP_ENV=str(path))
        assert done.returncode == 2
        assert f"chmod 600 {path}" in done.stderr
        assert "Traceback" not in done.stderr
        assert CANARY not in done.stdout + done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [module.FILE]


def test_a_launch_refuses_a_config_that_holds_one_of_its_values(tmp_path: Path, checkout: Path) -> None:
    path = written(tmp_path, f"JUDGE: {CANARY}\n")
    done = launch(tmp_path, *standin(checkout), f"++env.judge.note=x{CANARY}", "dry_run=true", NANO_EXP_ENV=str(path))
    assert done.returncode == 2
    assert "env.judge.note" in done.stderr
    assert CANARY not in done.stdout + done.stderr


#: The stand-in starts no Ray, and one that other tests have on this machine is no matter.
SHORT = ("grpo.max_num_steps=2", "engine.ray_address=none", "+site.env.STANDIN_HASH=HF_TOKEN JUDGE")


def waiting(folder: Path, checkout: Path, text: str, *more: str) -> tuple[job_arrays.Launch, Path]:
    """A launch with an env.yaml, whose attempt has not started yet; and that file."""
    path = written(folder, text)
    return prepared(folder, *standin(checkout), *SHORT, *more, where="local", env_file=path), path


def last_end(ready: job_arrays.Launch) -> dict[str, object]:
    end = runs.attempts(ready.arrays[0].rows[0].dir)[-1].end
    assert end is not None
    return dict(end)


def test_the_engine_gets_the_values_and_the_environments_own_first(tmp_path: Path, checkout: Path) -> None:
    ready, path = waiting(tmp_path, checkout, f"HF_TOKEN: {CANARY}\nJUDGE: {CANARY}-2\n")
    path.write_text(f"HF_TOKEN: {CANARY}-renewed\nJUDGE: {CANARY}-2\n")  # it reaches runs that still wait
    assert attempt(ready.dir, JUDGE="inherited").returncode == 0
    folder = ready.arrays[0].rows[0].dir / "attempts" / "1"
    printed = (folder / "stdout.log").read_text()
    assert sha256_line("HF_TOKEN", f"{CANARY}-renewed") in printed
    assert sha256_line("JUDGE", "inherited") in printed
    assert f"{path} gives HF_TOKEN; set in the environment, which wins: JUDGE" in (folder / "attempt.log").read_text()
    assert holding(tmp_path, [CANARY], [path]) == []


def test_an_attempt_without_its_file_fails_and_a_retry_from_elsewhere_finds_it(tmp_path: Path, checkout: Path) -> None:
    ready, path = waiting(tmp_path, checkout, f"HF_TOKEN: {CANARY}\n")
    path.rename(tmp_path / "aside")
    assert attempt(ready.dir).returncode == 2
    assert f"{path} is not there" in str(last_end(ready)["why"])
    (tmp_path / "aside").rename(path)
    path.chmod(0o640)
    run = ready.arrays[0].rows[0].dir
    said = attempt(ready.dir)
    assert said.returncode == 2
    assert f"chmod 600 {path}" in said.stdout
    assert not (run / "attempts" / "2" / "stdout.log").exists()
    path.chmod(0o600)
    (tmp_path / "elsewhere").mkdir()
    done = nano_exp(tmp_path / "elsewhere", "retry", run.name, "--results", str(ready.results), NANO_EXP_ENV=None)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sha256_line("HF_TOKEN", CANARY) in (run / "attempts" / "3" / "stdout.log").read_text()


def test_an_end_is_recorded_without_the_secret_that_an_error_shows(tmp_path: Path, checkout: Path) -> None:
    """The config came to hold the value before it was one; here it stands in a path that the error names."""
    ready, _ = waiting(tmp_path, checkout, f"JUDGE: {CANARY}\n", f"site.python=/none/{CANARY}/python")
    done = attempt(ready.dir)
    assert done.returncode == 2
    assert f"site.python=/none/{credentials.REMOVED}/python" in str(last_end(ready)["why"])
    folder = ready.arrays[0].rows[0].dir
    assert holding(folder / "attempts", [CANARY]) == []
    assert holding(folder / "events", [CANARY]) == []
    assert CANARY not in done.stdout + done.stderr


def test_a_local_run_with_wandb_leaves_no_secret_anywhere(tmp_path: Path) -> None:
    """The embedded engine, W&B offline, with secrets in env.yaml in the launch folder and in the environment."""
    held = {"HF_TOKEN": f"{CANARY}-hf", "JUDGE": f"{CANARY}-judge"}
    key = f"{CANARY.replace('-', '0')}{'0' * 40}"[:40]
    path = written(tmp_path, "".join(f"{name}: {value}\n" for name, value in held.items()))
    inherited = {"WANDB_API_KEY": key, "MY_PASSWORD": f"{CANARY}-password", "WANDB_MODE": "offline"}
    process = start_launch(tmp_path, *TINY, NANO_EXP_ENV=None, **inherited)
    seen: dict[str, str] = {}

    def engine_seen() -> bool:
        """Every argument list on this machine is read; the engine's environment is kept."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (entry / "cmdline").read_text()
                if "nano_exp.engines.embedded" in arguments and str(tmp_path) in arguments:
                    pairs = (entry / "environ").read_text().split("\0")
                    seen.update(pair.split("=", 1) for pair in pairs if "=" in pair)
            except OSError:
                continue
            assert CANARY not in arguments
            assert key not in arguments
        time.sleep(0.2)  # reading all of /proc takes its share of the cores
        return process.poll() is not None

    wait_for(engine_seen, "the launch's end", 180)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    assert {name: seen.get(name) for name in (*held, *inherited)} == {**held, **inherited}
    assert f"environment: {path} gives HF_TOKEN, JUDGE" in printed
    [run] = runs.find(tmp_path / "results")
    assert list(run.dir.glob("logs/wandb/offline-run-*/run-*.wandb"))
    assert CANARY not in printed
    assert key not in printed
    assert holding(tmp_path, [CANARY, key], [path]) == []
    [launched] = [p for p in (tmp_path / "results" / runs.LAUNCHES).iterdir() if p.is_dir()]
    assert files.read_json(launched / "manifest.json")["env_file"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_job_is_to_have_is_named_by_the_launchs_environment() -> None:
    environ = {"HF_TOKEN": "x", "WANDB_BASE_URL": "y", "MY_PASSWORD": "z", "PATH": "/bin", "API_KEY": "", "TERM": "t"}
    assert module.tokens(environ) == ["HF_TOKEN", "MY_PASSWORD"]
    assert module.carried(environ) == ["HF_TOKEN", "MY_PASSWORD", "WANDB_BASE_URL"]
    module.require(["HF_TOKEN"], environ)
    with pytest.raises(UserError, match="the job has no API_KEY, OPENAI_API_KEY, and the launch's environment had"):
        module.require(["HF_TOKEN", "API_KEY", "OPENAI_API_KEY"], environ)
