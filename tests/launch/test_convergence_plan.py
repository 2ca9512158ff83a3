"""Plans: the wanted runs against the store and Slurm. Configs are really composed, runs really stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from core_case import Answer, dead_process, everything_below, frozen, intend, make_attempt, prepared, standin

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.launch import convergence, show
from nano_exp.launch.convergence import Plan, Row
from nano_exp.store import identity, runs
from nano_exp.store.runs import Owner
from nano_exp.store.state import State

SEED = "grpo.seed=7"


def store(folder: Path, *overrides: str, end: str | None = None) -> Path:
    """A run in the store, made as a launch makes it; with `end`, one attempt that ended so."""
    launch = prepared(folder, *overrides)
    run = launch.arrays[0].rows[0].dir
    if end:
        make_attempt(run, 1, dead_process(), {"kind": end, "why": "because"})
    return run


def make(folder: Path, *points: list[str], fresh: bool = False, lines: list[str] | None = None) -> Plan:
    return convergence.make([frozen(folder, *point) for point in points], fresh, Answer(lines or []))


def only(made: Plan) -> Row:
    assert len(made.rows) == 1
    return made.rows[0]


def edit_config(run: Path, key: str, value: object) -> None:
    """What an older default would have left in the store: another value, and the digest that goes with it."""
    from nano_exp.dotted import set_dotted

    config = files.read_yaml(run / "config.yaml")
    set_dotted(config, key, value)
    files.write_text(run / "config.yaml", files.dump_yaml(config))
    record = files.read_json(run / "run.json")
    digest = identity.digest(config)
    files.write_json(run / "run.json", {**record, "digest": digest, "id": identity.run_id(digest)})
    run.rename(run.with_name(identity.run_id(digest)))


def test_a_run_that_is_not_there_is_new(tmp_path: Path) -> None:
    row = only(make(tmp_path, [SEED]))
    assert (row.state.kind, row.submit, row.is_new, row.merged) == ("new", True, True, 1)
    assert row.id == identity.run_id(row.frozen.digest)
    assert row.dir == tmp_path / "results" / "nano_tiny" / row.id
    assert row.config["run"]["dir"] == str(row.dir)
    assert everything_below(tmp_path) == [], "planning writes nothing"


@pytest.mark.parametrize(
    ("end", "submit"), [("done", False), ("failed", True), ("stopped", True), (None, True)], ids=str
)
def test_a_run_that_is_there_keeps_its_folder(tmp_path: Path, end: str | None, submit: bool) -> None:
    run = store(tmp_path, SEED, end=end)
    row = only(make(tmp_path, [SEED]))
    assert row.state.kind == (end or "unstarted")
    assert (row.submit, row.is_new, row.dir) == (submit, False, run)


def test_an_active_run_is_left_alone(tmp_path: Path) -> None:
    launch = prepared(tmp_path, SEED)
    row = only(make(tmp_path, [SEED], lines=[f"12|PENDING|{launch.arrays[0].job_name}|Priority"]))
    assert (row.state.kind, row.state.job, row.submit) == ("pending", "12", False)


def test_only_the_difference_is_submitted(tmp_path: Path) -> None:
    store(tmp_path, SEED, end="done")
    made = make(tmp_path, [SEED], ["grpo.seed=8"], ["grpo.seed=9"])
    assert [row.state.kind for row in made.rows] == ["done", "new", "new"]
    assert [row.frozen.overrides for row in made.to_submit] == [("grpo.seed=8",), ("grpo.seed=9",)]
    assert len(made.of("new", "done")) == 3


def test_equal_points_are_one_run(tmp_path: Path) -> None:
    made = make(tmp_path, ["optimizer.lr=1e-6"], [SEED], ["optimizer.lr=0.000001"])
    assert [(row.merged, row.submit) for row in made.rows] == [(2, True), (1, True)]


def test_one_config_under_two_names_is_two_runs(tmp_path: Path) -> None:
    made = make(tmp_path, ["run.name=a"], ["run.name=b"])
    assert [row.dir.parent.name for row in made.rows] == ["a", "b"]
    assert len({row.config["checkpointing"]["checkpoint_dir"] for row in made.rows}) == 2
    store(tmp_path, "run.name=a", end="done")
    assert [row.state.kind for row in make(tmp_path, ["run.name=a"], ["run.name=b"]).rows] == ["done", "new"]


# --- a config that changed ------------------------------------------------------------------------------------------


def test_the_same_overrides_with_another_default_are_shown_and_not_submitted(tmp_path: Path) -> None:
    run = store(tmp_path, SEED, end="done")
    edit_config(run, "grpo.val_period", 99)
    row = only(make(tmp_path, [SEED]))
    assert (row.state.kind, row.submit) == ("changed", False)
    assert row.changes == {"grpo.val_period": (99, row.config["grpo"]["val_period"])}
    assert "was r" in row.state.why


def test_the_changed_keys_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_config(store(tmp_path, SEED), "grpo.val_period", 99)
    show.plan(make(tmp_path, [SEED]))
    said = capsys.readouterr().out
    assert "grpo.val_period" in said
    assert "99" in said
    assert "fresh=true" in said


def test_a_changed_config_starts_with_fresh(tmp_path: Path) -> None:
    edit_config(store(tmp_path, SEED, end="done"), "grpo.val_period", 99)
    row = only(make(tmp_path, [SEED], fresh=True))
    assert (row.state.kind, row.submit, row.is_new) == ("new", True, True)
    assert row.id == identity.run_id(row.frozen.digest)


def test_other_overrides_are_no_changed_config(tmp_path: Path) -> None:
    store(tmp_path, SEED, end="done")
    assert only(make(tmp_path, ["grpo.seed=8"])).state.kind == "new"


def test_the_overrides_that_name_a_place_do_not_hide_a_change(tmp_path: Path) -> None:
    edit_config(store(tmp_path, SEED), "grpo.val_period", 99)
    row = only(make(tmp_path, ["site.account=other", "++grpo.seed=7.0"]))
    assert row.state.kind == "changed"


def test_a_point_of_the_same_launch_is_no_older_config(tmp_path: Path) -> None:
    """Both have the overrides' key of a plain launch; neither is the other's past."""
    store(tmp_path, end="done")
    made = make(tmp_path, [], ["site.account=x"])
    assert [row.state.kind for row in made.rows] == ["done"]


# --- starting again -------------------------------------------------------------------------------------------------


def test_fresh_starts_beside_what_is_there(tmp_path: Path) -> None:
    run = store(tmp_path, SEED, end="done")
    row = only(make(tmp_path, [SEED], fresh=True))
    assert row.id == f"{run.name}-2"
    assert (row.state.kind, row.submit, row.is_new) == ("new", True, True)
    assert row.config["checkpointing"]["checkpoint_dir"] == str(row.dir / "checkpoints")


def test_the_newest_start_is_the_one_that_counts(tmp_path: Path) -> None:
    run = store(tmp_path, SEED, end="done")
    for generation in (2, 10):
        assert runs.create(run.with_name(f"{run.name}-{generation}"), {}, files.read_json(run / "run.json"))
    assert only(make(tmp_path, [SEED])).id == f"{run.name}-10"
    assert only(make(tmp_path, [SEED], fresh=True)).id == f"{run.name}-11"


def test_fresh_beside_an_active_run_is_refused(tmp_path: Path) -> None:
    launch = prepared(tmp_path, SEED)
    with pytest.raises(UserError) as caught:
        make(tmp_path, [SEED], fresh=True, lines=[f"12|RUNNING|{launch.arrays[0].job_name}|None"])
    assert "train the same config twice" in caught.value.why
    assert "scancel 12" in caught.value.fix


# --- when nobody can tell -------------------------------------------------------------------------------------------


def silent(folder: Path, *points: list[str], fresh: bool = False) -> Plan:
    return convergence.make([frozen(folder, *point) for point in points], fresh, Answer(None))


@pytest.mark.parametrize("fresh", [False, True])
def test_without_an_answer_nothing_is_guessed(tmp_path: Path, fresh: bool) -> None:
    store(tmp_path, SEED)
    with pytest.raises(UserError) as caught:
        silent(tmp_path, [SEED], ["grpo.seed=8"], fresh=fresh)
    error = caught.value
    assert error.code == 4
    assert "1 of 2 runs" in error.found
    assert "Unable to contact slurm controller" in error.found
    assert "squeue" in error.fix


def test_without_an_answer_new_and_ended_runs_are_planned_all_the_same(tmp_path: Path) -> None:
    store(tmp_path, SEED, end="done")
    made = silent(tmp_path, [SEED], ["grpo.seed=8"])
    assert [row.state.kind for row in made.rows] == ["done", "new"]


def test_a_run_of_another_host_is_not_started_here(tmp_path: Path) -> None:
    run = store(tmp_path, SEED)
    elsewhere = Owner(None, 0, "another-host", 7, 1.0)
    intend(run, local=elsewhere)
    make_attempt(run, 1, elsewhere)
    with pytest.raises(UserError) as caught:
        make(tmp_path, [SEED])
    assert "another-host:7" in caught.value.found
    assert "that host" in caught.value.fix
    assert only(make(tmp_path, [SEED], fresh=True)).id == f"{run.name}-2", "in a folder of its own"


def test_slurm_is_asked_once_and_for_every_user_of_the_runs(tmp_path: Path) -> None:
    for seed in (1, 2):
        run = store(tmp_path, f"grpo.seed={seed}")
        files.write_json(run / "run.json", {**files.read_json(run / "run.json"), "user": f"user{seed}"})
    asked = Answer([])
    convergence.make([frozen(tmp_path, f"grpo.seed={seed}") for seed in (1, 2, 3)], False, asked)
    assert {"user1", "user2"} <= asked.users


def test_slurms_silence_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = convergence.QueueLookup()
    assert asked() is None
    assert "squeue is not on PATH" in asked.error
    monkeypatch.undo()
    assert asked() is None, "one question for a whole plan"


# --- damage ---------------------------------------------------------------------------------------------------------


def test_two_configs_of_one_short_id_never_share_a_folder(tmp_path: Path) -> None:
    run = store(tmp_path, SEED)
    files.write_json(run / "run.json", {**files.read_json(run / "run.json"), "digest": run.name[1:] + "0" * 54})
    with pytest.raises(UserError) as caught:
        make(tmp_path, [SEED])
    assert "another config of the same short id" in caught.value.found
    assert "run.name=" in caught.value.fix


def test_a_damaged_run_is_left_alone_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = store(tmp_path, SEED)
    (run / "run.json").write_text("{")
    made = make(tmp_path, [SEED], ["grpo.seed=8"])
    assert [(row.state.kind, row.submit) for row in made.rows] == [("damaged", False), ("new", True)]
    show.plan(made)
    assert "fresh=true" in capsys.readouterr().err
    assert make(tmp_path, [SEED], fresh=True).rows[0].id == f"{run.name}-2"


# --- what is shown --------------------------------------------------------------------------------------------------


def test_a_plan_is_shown_with_what_sets_its_runs_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, SEED, "grpo.val_period=5", end="failed")
    same = "grpo.val_period=5"
    show.plan(make(tmp_path, [same, SEED], [same, "grpo.seed=8"], [same, "grpo.seed=8.0"]))
    out = capsys.readouterr().out
    assert out.startswith("plan: 2 runs (1 failed, 1 new), 2 to submit\n  all with: grpo.val_period=5\n")
    header, seven, eight = out.splitlines()[2:5]
    assert header.split() == ["run", "state", "seed"]
    assert seven.split()[1:5] == ["failed", "submit", "7", "[because,"]
    assert eight.split()[1:] == ["new", "submit", "8"]
    assert "2 points of this launch are equal" in out


def test_a_long_plan_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = only(make(tmp_path, []))
    show.plan(Plan((row,) * (show.MAX_ROWS + 3)))
    out = capsys.readouterr().out
    assert "... and 3 more" in out
    assert out.count(row.id) == show.MAX_ROWS


def test_a_new_run_that_another_name_has_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = store(tmp_path, "run.name=first", end="done")
    made = make(tmp_path, ["run.name=second"], ["run.name=second", "grpo.seed=7"])
    assert [row.twin for row in made.rows] == ["first", ""]
    assert made.rows[0].id == run.name
    show.plan(made)
    assert "1 of the new ones have the same config as a run of first; run.name=first goes on" in capsys.readouterr().out


def test_of_a_large_store_only_the_wanted_runs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = store(tmp_path, "grpo.seed=1", end="done")
    for seed in (2, 3, 4):
        store(tmp_path, f"grpo.seed={seed}", end="done")
    read: list[str] = []
    load = runs.load
    monkeypatch.setattr(runs, "load", lambda folder, events=True: read.append(folder.name) or load(folder, events))
    assert make(tmp_path, ["grpo.seed=1"]).rows[0].state.kind == "done"
    assert read == [wanted.name]


def test_the_store_is_listed_once_however_many_runs_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path, "grpo.seed=1", end="done")
    listed: list[str] = []
    folders = runs.folders
    monkeypatch.setattr(runs, "folders", lambda parent: listed.append(parent.name) or folders(parent))
    make(tmp_path, *([f"grpo.seed={seed}"] for seed in (2, 3, 4)))
    assert listed.count("nano_tiny") == 1


def test_a_plan_and_its_submission_show_each_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready = prepared(tmp_path, *standin(), points=[[f"grpo.seed={seed}"] for seed in range(4)])
    [array] = ready.arrays
    array.job = "35"
    show.plan(Plan(tuple(array.rows)))
    show.submitted(ready)
    out = capsys.readouterr().out
    first, *between, last = [row.id for row in array.rows]
    assert all(out.count(run) == 1 for run in between)
    said = out.partition("submitted as launch ")[2]
    assert f"\n  35_0 to 35_3  {first} to {last}, as above  " in said
    assert "nano_12b/RUN/attempts/latest/stdout.log" in said
    assert f"nano-exp logs -f {first}" in said.splitlines()[-1]


def test_the_baseline_among_typed_points_has_its_own_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show.plan(make(tmp_path, [], ["grpo.seed=8"], ["parallelism=published", "optimizer.lr=1e-5"]))
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert header == ["run", "state", "seed", "lr"]
    assert [row[3:] for row in rows] == [["42", "0.002"], ["8", "0.002"], ["42", "1e-5"]]


def test_a_waiting_run_says_for_what_in_plain_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = only(make(tmp_path, []))
    show.plan(Plan((replace(row, state=State("pending", "QOSMaxJobsPerUserLimit", "35_0")),)))
    assert "its QOS is at its limit of jobs for one user (QOSMaxJobsPerUserLimit), job 35_0" in capsys.readouterr().out
