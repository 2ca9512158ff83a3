"""Chains: what a file says, what is typed for it, all links checked before the first is sent, and a whole one here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from core_case import TINY, make_attempt, nano_exp

from nano_exp import app, cli
from nano_exp.errors import UserError
from nano_exp.launch import chain_file, flow, job_arrays, retry
from nano_exp.launch.flow import Launched, Recorded
from nano_exp.store import runs
from nano_exp.store.state import State

HERE = ("chain", "sft_then_grpo", *TINY)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANO_EXP_ENV", "")
    monkeypatch.delenv("NANO_EXP_RESULTS", raising=False)
    return tmp_path


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where chains are looked for."""
    monkeypatch.setattr(chain_file, "FOLDER", tmp_path)
    return tmp_path


def two(folder: Path, first: object = None, second: object = None, **more: object) -> None:
    (folder / "two.yaml").write_text(yaml.safe_dump({"links": {"a": first, "b": second}, **more}))


def test_words_are_for_all_links_or_for_one_and_the_last_of_a_key_counts(write: Path) -> None:
    two(write, {"overrides": ["x=1", "y=1"]}, {"after_training": ["export", "eval:x"]}, overrides=["model=m", "x=0"])
    first, second = chain_file.read("two", ["y=2", "b:x=3", "b:+z=4"])
    assert first.words == ("model=m", "x=1", "y=2") and (first.source, first.algorithm) == ("", "grpo")
    assert second.words == ("model=m", "after_training=[export,eval:x]", "y=2", "x=3", "+z=4")
    assert (second.source, second.step) == ("a", "last")
    assert chain_file.read("two", ["b:from=a@best"])[1].step == "best"
    assert chain_file.read("two", ["b:init_from=/some/where"])[1].source == ""
    assert chain_file.read("two", ["data=c:d=e"])[0].words[-1] == "data=c:d=e"


@pytest.mark.parametrize(
    ("content", "typed", "why"),
    [
        ({"links": {}}, [], "no `links:`"),
        ({"link": {}}, [], "link:"),
        ({"links": {"a": None, "b": {"from": "c"}}}, [], "from: a"),
        ({"links": {"a": {"from": "a"}}}, [], "leave it out"),
        ({"links": {"a": {"algorithm": "ppo"}}}, [], "grpo or sft"),
        ({"links": {"a": {"override": ["x=1"]}}}, [], "link a: override:"),
        ({"links": {"a": {"overrides": [{"x": 1}]}}}, [], "it is a list of words"),
        ({"links": {"a": {"overrides": ["x"]}}}, [], "a key and a value"),
        ({"links": {"a": None}}, ["b:x=1"], "has the links a"),
        ([], [], "a chain is a mapping"),
    ],
)
def test_a_file_that_is_wrong_says_where(write: Path, content: object, typed: Sequence[str], why: str) -> None:
    (write / "two.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as refused:
        chain_file.read("two", typed)
    assert why in str(refused.value)


def test_a_dry_run_shows_all_links_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*HERE, "grpo:optimizer.lr=1e-4", "dry_run=true"]) == 0
    said = capsys.readouterr().out
    first = said.split("link sft: sft_then_grpo/")[1].split()[0]
    assert f"init_from=sft_then_grpo/{first}@last" in said and said.count("plan: 1 run (1 new)") == 2
    assert said.count("optimizer.lr=1e-4") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("grpo:policy.hf_config_overrides.hidden_size=32", "hidden_size is 64 there, and 32 here"),
        ("grpo:grpo.num_generations_per_prompt=1", "with one every advantage is 0"),
        ("grpo:optimizer.lr=1e-4,1e-3", "a link is one run"),
        ("grpo:run.results=elsewhere", "links with run.results"),
        ("submit=false", "submit=false with a chain"),
        ("gpro:optimizer.lr=1e-4", "grpo:optimizer.lr=1e-4"),
    ],
)
def test_a_mistake_in_any_link_writes_nothing_of_any(
    folder: Path, capsys: pytest.CaptureFixture[str], typed: str, why: str
) -> None:
    assert cli.main([*HERE, typed]) == 2
    assert why in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_supervised_link_of_nemo_rl_is_refused_with_the_way_round(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["chain", "sft_then_grpo", "model=nano_9b"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("link sft:") and "algorithm: sft with model=nano_9b" in said
    assert "init_from=/path/to/its/step_N" in said
    assert list(folder.iterdir()) == []


def test_after_a_link_that_failed_the_later_ones_do_not_start_and_say_why(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(recorded: Recorded) -> Launched:
        (row,) = recorded.plan.rows
        make_attempt(row.dir, 1, runs.this_process(), {"kind": "failed", "why": "as told"})
        return Launched(recorded.plan, 1)

    monkeypatch.setattr(flow, "finish", fails)
    assert cli.main([*HERE]) == 1
    names = {run.id: run for run in runs.find(folder / "results")}
    (second,) = (run for run in names.values() if "init_from" in run.record)
    assert f"does not start: it comes after {second.record['init_from']['run']} (failed)" in capsys.readouterr().err
    assert cli.main(["status", "sft_then_grpo", "--json"]) == 0
    rows = [json.loads(line.strip(" ,[]")) for line in capsys.readouterr().out.splitlines() if '"run"' in line]
    (row,) = (row for row in rows if row["run"] == second.id)
    assert (row["state"], row["origin"]["step"]) == ("cancelled", "last") and "(failed)" in row["why"]
    assert row["next"] == f"nano-exp retry {second.record['init_from']['run']} {second.id}"


def test_links_are_tried_again_in_their_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though both were launched in one second, and launch ids of one second are in no order."""
    ids = (f"20260101-000000-{number:04x}" for number in range(0xFFFF, 0, -1))
    monkeypatch.setattr(job_arrays, "new_id", lambda: next(ids))
    monkeypatch.setattr(flow, "finish", lambda recorded: Launched(recorded.plan))
    assert cli.main([*HERE]) == 1
    first, second = sorted(runs.find(folder / "results"), key=lambda run: "init_from" in run.record)
    pairs = [(run, State("cancelled")) for run in (second, first)]
    batches = retry.batches(folder / "results", pairs, {}, [])
    assert [row.id for batch in batches for row in batch.rows] == [first.id, second.id]


def test_launch_py_names_the_command_of_a_chain() -> None:
    with pytest.raises(UserError) as refused:
        app._refuse_chain(["chain=sft_then_grpo", "dry_run=true"])
    assert refused.value.fix == "nano-exp chain sft_then_grpo dry_run=true"


def test_a_chain_of_supervised_steps_and_grpo_runs_here_once(folder: Path) -> None:
    words = (*HERE, "grpo:after_training=[]")
    whole = nano_exp(folder, *words, timeout=240)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    (sft,) = (run for run in runs.find(folder / "results") if "init_from" not in run.record)
    (grpo,) = (run for run in runs.find(folder / "results") if "init_from" in run.record)
    origin = grpo.last("origin")
    assert origin is not None and (origin.data["run"], origin.data["step"]) == (f"{sft.name}/{sft.id}", 2)
    log = (grpo.dir / "attempts" / "1" / "stdout.log").read_text()
    assert f"weights of {sft.dir / 'checkpoints' / 'step_2'}: no warm start" in log
    again = nano_exp(folder, *words, timeout=120)
    assert again.returncode == 0 and again.stdout.count("0 to submit") == 2, again.stdout + again.stderr
    assert len(list(runs.find(folder / "results"))) == 2
