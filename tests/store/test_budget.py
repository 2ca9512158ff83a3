"""A name's budget: what its runs have spent, an attempt that does not start for it, launches and retries."""

from __future__ import annotations

from pathlib import Path

import pytest
import results_case
from core_case import attempt, intend, make_run, prepared, standin

from nano_exp import files, slurm
from nano_exp.errors import UserError
from nano_exp.files import Damaged
from nano_exp.launch import spending, terms
from nano_exp.launch.terms import Terms
from nano_exp.results import load_results, outlook
from nano_exp.store import budget, runs, state
from nano_exp.store.queue_lookup import job_lookup


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results_case.make(tmp_path_factory.mktemp("budget"), steps=10)


def test_what_a_name_has_spent_is_that_of_all_its_attempts(store: Path) -> None:
    steps = [*[10] * 19, 4, 6, 5, 3, 2, 9, 7]  # of each attempt; the last one vanished, and printed until its end
    seconds = [results_case.SETUP_S + 10 + count * results_case.STEP_S for count in steps]
    assert budget.spent(store, results_case.NAME) == pytest.approx(8 * sum(seconds) / 3600)
    assert budget.spent(store, "nobody") == 0


def test_a_limit_is_kept_for_the_name_and_taken_away(tmp_path: Path) -> None:
    assert budget.limit(tmp_path, "name") is None
    budget.write(tmp_path, "name", 12.5)
    assert budget.look(tmp_path, "name") == budget.Budget("name", 12.5, 0.0)
    budget.write(tmp_path, "name", float("inf"))
    assert budget.limit(tmp_path, "name") is None
    (tmp_path / ".budgets" / "name.json").write_text("{")
    with pytest.raises(Damaged, match=r"name\.json"):
        budget.look(tmp_path, "name")


def test_summary_says_what_is_left(store: Path) -> None:
    budget.write(store, results_case.NAME, 30)
    said = outlook.words(outlook.look(load_results(store, [results_case.NAME])))
    budget.write(store, results_case.NAME, float("inf"))
    assert "lr_sweep has spent 36.0 of its budget of 30 GPU-hours (spent: no attempt starts)" in said


def test_a_launch_says_what_is_left_and_is_refused_once_it_is_spent(store: Path) -> None:
    name = results_case.NAME
    spent = budget.spent(store, name)
    assert f"has spent {spent:,.1f} of its budget of 500 GPU-hours" in spending.require(store, [name], 500.0)[0]
    assert spending.require(store, [name], None) == [], "it has none"
    with pytest.raises(UserError) as caught:
        spending.require(store, [name], 1.0, retry=True)
    assert caught.value.fix.startswith(f"nano-exp retry {name} budget=")
    more = float(caught.value.fix.split("budget=")[1].split()[0])
    assert spending.require(store, [name], more), "what it suggests is enough"


@pytest.mark.parametrize("word", ["budget=0", "budget=-3", "budget=many", "budget=true"])
def test_what_no_budget_can_be_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="budget="):
        terms.changed(Terms(), [word])
    assert terms.changed(Terms(), ["budget=inf"]).budget == float("inf")
    assert terms.changed(Terms(), ["budget=1e3"]).budget == 1000


def test_an_attempt_whose_budget_is_spent_does_not_start_and_the_state_says_why(tmp_path: Path) -> None:
    ready = prepared(tmp_path, *standin(), "grpo.max_num_steps=2")
    run_dir = ready.arrays[0].rows[0].dir
    results, name = run_dir.parent.parent, run_dir.parent.name
    budget.write(results, name, 1.0)
    other = make_run(results, name=name, run="r9999999999")
    intend(other)
    long = runs.Owner("77", 0, "node1", 1, 1.0)
    spent = runs.claim(other, 1, long)
    assert spent is not None
    files.write_json(spent / "end.json", {"kind": "stopped", "seconds": 3600.0})
    manifest = {"launch": "L", "where": "slurm", "arrays": [{"shape": {"nodes": 1, "gpus_per_node": 8}}]}
    files.make_dir(runs.launch_dir(results, "L"))
    files.write_json(runs.launch_dir(results, "L") / "manifest.json", manifest)
    runs.record_event(other, "start", attempt=1, launch="L")
    done = attempt(ready.dir, SLURM_JOB_ID="78")
    assert done.returncode == 75, done.stderr
    assert "does not start: nano_12b has spent 8.0 of its budget of 1 GPU-hours" in done.stdout
    assert runs.attempts(run_dir) == [], "nothing was claimed"
    now = state.state(runs.load(run_dir), [], job_lookup(results), lambda: slurm.Queue([]))
    assert (now.kind, now.action) == ("budget", "submit")
    assert "has spent 8.0" in now.why
