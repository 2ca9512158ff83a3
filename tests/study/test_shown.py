"""What tables, the summary and the report say of a study."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from core_case import Answer, frozen, make_attempt, make_run, standin

from nano_exp.errors import UserError
from nano_exp.html_report.document import document
from nano_exp.launch import convergence, study_terms, to_the_end
from nano_exp.report import status
from nano_exp.results import load_results, outlook, ranking_table, study_tree
from nano_exp.results.ranking import rank
from nano_exp.store import metrics_file, runs, state
from nano_exp.store.runs import Owner
from nano_exp.study import book
from nano_exp.study.halving import Halving

RULES = Halving((20, 60), 0.34, "train/reward")
PAUSED = "rung 1 of 2, step 20: train/reward 0.1"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One run that is paused, one that has gone on, and one that executes its first steps; of 100."""
    book.write(tmp_path, "name", RULES)
    for task, (name, step, level) in enumerate((("ra", 20, 0), ("rb", 60, 1), ("rc", 5, 0))):
        record = {"overrides": [f"optimizer.lr={task + 1}"], "max_steps": 100, "place": task, "created": 1.0}
        run = make_run(tmp_path, run=name, record=record)
        sent = {"launch": "L", "array": 0, "task": task, "after_attempt": 0, "halving": True}
        runs.record_event(run, "submit", **sent)
        rows = [{"step": n, "train/reward": 0.1, "timing/train/total_step_time": 6.0} for n in range(1, step + 1)]
        (run / "metrics.jsonl").write_text("".join(map(metrics_file.line, rows)))
        end = {"kind": "paused", "rung": 0, "attempt": 1, "why": PAUSED, "last_step": 20, "seconds": 120.0}
        make_attempt(run, 1, Owner(f"7_{task}", 0, "node1", 7, 1.0), end if name != "rc" else None)
        if name != "rc":
            runs.record_event(run, "rung", rung=0, step=20, value=0.1, attempt=1)
        if level:
            runs.record_event(run, "promote", rung=0, to=60, why="", by="study")
            make_attempt(run, 2, Owner(f"7_{task}", 0, "node1", 7, 1.0))
    return tmp_path


def test_a_line_has_the_rung_and_where_the_run_is_compared_next(store: Path) -> None:
    name = state.job_name("L", 0, "name")
    lines = status.lines(store, [], Answer([f"7_{task}|RUNNING|{name}|None" for task in (1, 2)]))
    assert [(line.state, line.why) for line in lines] == [
        ("paused", PAUSED),
        ("running", "to rung 2 of 2 at step 60"),
        ("running", "to rung 1 of 2 at step 20"),
    ]
    first, second, _ = json.loads(status.as_json(lines, Answer([])))["runs"]
    assert first["rung"] == {"reached": 1, "passed": 0, "of": 2, "until": 20, "value": 0.1}
    assert second["rung"]["until"] == 60


def test_a_run_that_has_no_job_yet_says_that_it_was_promoted_and_what_sends_it(store: Path) -> None:
    runs.record_event(store / "name" / "ra", "promote", rung=0, to=60, why="by hand", by="a user")
    line = next(line for line in status.lines(store, [], Answer([])) if line.run == "ra")
    assert (line.state, line.why) == ("unstarted", "promoted, not sent yet: by hand")
    assert line.next.endswith("nano-exp promote ra")


def test_a_comparison_has_the_rung_that_each_point_reached(store: Path) -> None:
    runs.record_event(store / "name" / "rb", "rung", rung=1, step=60, value=0.1, attempt=2)
    runs.record_event(store / "name" / "rb", "promote", rung=1, to=None, why="", by="study")
    made = rank(load_results(store, ["name"], asked=Answer([]), now=time.time(), accounting=False), "reward", "steps=5")
    shown = ranking_table.words(made, 80)
    head, *rows = shown.splitlines()[2:6]
    assert [row[head.index("rung") :][:6].rstrip() for row in rows] == ["1 of 2", "all", "0 of 2"]
    points = json.loads(ranking_table.as_json(made))["points"]
    assert [(point["rung"], point["rungs_passed"], point["rungs"]) for point in points] == [
        (1, 0, 2),
        (2, 2, 2),
        (0, 0, 2),
    ]


def test_a_summary_and_a_report_say_what_was_saved(store: Path) -> None:
    name = state.job_name("L", 0, "name")
    queue = Answer([f"7_{task}|RUNNING|{name}|None" for task in (1, 2)])
    results = load_results(store, ["name"], asked=queue, now=time.time(), accounting=False)
    made = outlook.look(results)
    said = (
        "study       trained 85 of the 300 steps of the full grid (28%); training took 8 min 30 s; pausing saved 8 min"
    )
    assert said in outlook.words(made)
    assert [run.run.id for run in made.left] == ["rb", "rc"], "what is paused does not go on, and stands in no way"
    assert made.obstacles == ()
    assert json.loads(outlook.as_json(made))["studies"][0]["saved_s"] == pytest.approx(480.0)
    page = document(rank(results, "reward"), store / "report.html")
    assert ("of the full grid's steps trained", "28%") in page["tiles"]
    assert next(run["cause"] for run in page["runs"] if run["id"] == "ra") == PAUSED


def test_a_launch_says_what_its_rungs_cost_of_the_grid(tmp_path: Path) -> None:
    words = (*standin(), "grpo.max_num_steps=120", "halving.rungs=[20,40]")
    lrs = [f"optimizer.lr={n}e-6" for n in range(1, 4)]
    plan = convergence.make([frozen(tmp_path, *words, lr) for lr in lrs], False, Answer([]))
    whole = to_the_end.Whole((100.0,) * 3, (), (), 0)
    said = "with rungs: at least 160 of the grid's 360 steps (44%), 133 of 300 GPU-hours; at most all of them"
    assert study_terms.cost(plan.rows, whole) == said
    assert study_terms.cost(plan.rows, to_the_end.Whole((), (), (), 3)) == said.replace(", 133 of 300 GPU-hours", "")


def test_the_tree_says_what_stands_in_the_way_and_of_another_name_what_to_type(store: Path) -> None:
    results = load_results(store, ["name"], asked=Answer([]), now=time.time(), accounting=False)
    tree = study_tree.look(results, "name")
    lines = study_tree.words(tree).splitlines()
    assert lines[1:4] == [
        "step 20: 3 points, 2 reached it, 1 went on",
        "  0.1     paused   lr=1",
        "  0.1     goes on  lr=2",
    ]
    assert lines[-1].startswith("in the way: 2 lost, ") and lines[-1].endswith("nano-exp retry rb rc")
    assert json.loads(study_tree.as_json(tree))["in_the_way"][0]["runs"] == ["rb", "rc"]
    make_run(store, name="plain", run="rd")
    for word, of, fix in (
        ("ra", "ra", "nano-exp study name"),
        ("plain", "plain", "nano-exp study name; or its launch "),
    ):
        found = load_results(store, [of], asked=Answer([]), now=time.time(), accounting=False)
        with pytest.raises(UserError) as error:
            study_tree.look(found, word)
        assert error.value.fix.startswith(fix)


def test_the_tree_of_a_search_says_that_points_are_to_come(store: Path) -> None:
    to_come = "its search has not asked for all of its points yet"
    assert to_come not in study_tree.words(study_tree.look(load_results(store, ["name"], accounting=False), "name"))
    book.write(store, "name", RULES, more_to_come=True)
    assert to_come in study_tree.words(study_tree.look(load_results(store, ["name"], accounting=False), "name"))
