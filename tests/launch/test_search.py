"""A search with rungs: what its runs are to Optuna, when the next one is asked for, and that a kill loses none.

Slurm is a list of jobs, and training a line of metrics; who goes on from a rung is decided by the study's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from core_case import Answer, config_loader, launch, make_attempt, make_run, standin, start_launch, wait_for
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from nano_exp import app, files
from nano_exp.compose import sweep
from nano_exp.errors import UserError
from nano_exp.launch import convergence, flow, search_draw, search_loop, search_request, search_space, search_trials
from nano_exp.launch.search_draw import Place, Wanted
from nano_exp.launch.search_loop import Search
from nano_exp.store import identity, metrics_file, run_config, runs, state
from nano_exp.store.runs import Owner
from nano_exp.store.state import State
from nano_exp.study import book
from nano_exp.study.halving import Halving

optuna = pytest.importorskip("optuna", reason="hydra-optuna-sweeper is not installed")

RULES = Halving((20, 60), 0.34)
METRIC = RULES.metric
LR = "optimizer.lr=interval(0.1,0.9)"
WORDS = ("model=nano_tiny", "cluster=1n1g", "wait=true", "halving.rungs=[20,60]", "run.name=name")


class Killed(BaseException):
    """Where a kill -9 would have come."""


class World:
    """A cluster of one job a run, oldest first. A run's accuracy is its learning rate, wherever it is measured."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "results"
        self.jobs: list[Path] = []  # of runs that execute, or wait
        self.launched: list[Path] = []
        self.most = 0
        self.away = 0  # so many times Slurm does not answer
        self.fate: Callable[[int], str] = lambda number: ""  # of the run that was launched so many-th

    def take(self, points: Sequence[Any], *rest: Any) -> flow.Launched:
        """In the place of `flow.launch`."""
        [point], (_, folder, _, of_search) = points, rest
        assert of_search
        if self.away:
            self.away -= 1
            raise UserError("Slurm does not answer", "it is down", "later", code=4)
        frozen = search_draw.freeze(point, folder)
        run_id = identity.run_id(frozen.digest)
        run_dir = self.results / frozen.name / run_id
        if not run_dir.exists():
            record = {"overrides": list(frozen.overrides), "digest": frozen.digest}
            make_run(self.results, run=run_id, record=record, config=run_config.remembered(frozen.config))
            self.launched.append(run_dir)
        self.send(run_dir)
        row = convergence.Row(frozen, run_id, run_dir, frozen.config, State("new"), True, True)
        return flow.Launched(convergence.Plan((row,)))

    def send(self, run_dir: Path) -> None:
        assert run_dir not in self.jobs, "nothing runs twice"
        tried = len(runs.attempts(run_dir))
        sent = {"launch": run_dir.name, "array": 0, "task": None, "after_attempt": tried, "local": None}
        runs.record_event(run_dir, "submit", **sent, halving=True)
        files.make_dir(runs.launch_dir(self.results, run_dir.name))
        runs.record_job(self.results, run_dir.name, 0, self.job(run_dir))
        self.jobs.append(run_dir)
        self.most = max(self.most, len(self.jobs))

    def job(self, run_dir: Path) -> str:
        return str(100 + self.launched.index(run_dir))

    def lookup(self) -> Answer:
        names = [(self.job(one), state.job_name(one.name, 0, "name")) for one in self.jobs]
        return Answer([f"{job}|RUNNING|{name}|None" for job, name in names])

    def advance(self, *_: Any) -> None:
        """The oldest job comes to its end, or to the next rung."""
        if not self.jobs:
            return
        run_dir = self.jobs.pop(0)
        run = runs.load(run_dir)
        level, tried = runs.rungs_left(run), len(runs.attempts(run_dir)) + 1
        fate = self.fate(self.launched.index(run_dir))
        step = 100 if level == len(RULES.rungs) else RULES.rungs[level]
        if fate != "silent":
            value = float(next(w for w in run.overrides if w.startswith("optimizer.lr=")).partition("=")[2])
            with (run_dir / runs.METRICS).open("a") as file:
                file.write(metrics_file.line({"step": step, METRIC: value}))
        kind = fate if fate in ("failed", "ended early") else "done" if step == 100 else "paused"
        if kind == "paused":
            book.reach(runs.load(run_dir), RULES, level, tried)
        end = {"kind": kind, "attempt": tried, "rung": level, "why": "because"}
        make_attempt(run_dir, tried, Owner(self.job(run_dir), 0, "node", 1, 1.0), end)
        book.promote(self.results, "name", RULES)
        for other in self.launched:
            if book.is_promoted(runs.load(other), runs.attempts(other)) and other not in self.jobs:
                self.send(other)

    def search(self, n_trials: int = 6, n_jobs: int = 2, words: Sequence[str] = (), settings: Any = None) -> Search:
        space = search_space.read(OverridesParser.create().parse_overrides([*WORDS, LR, *words]))
        wanted = Wanted(
            space, optuna.samplers.RandomSampler(seed=3), "maximize", n_trials, n_jobs, settings or sweep.Sweep()
        )
        place = Place(self.take, config_loader(), {}, self.folder)
        return Search(place, wanted, search_draw.first_point(place, space))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setattr(search_loop, "QueueLookup", made.lookup)
    monkeypatch.setattr(search_loop, "time", SimpleNamespace(sleep=made.advance))
    monkeypatch.setattr(search_draw.flow, "check", lambda *_, **__: None)
    return made


def states(made: Search) -> list[str]:
    return [trial.told.state for trial in made.trials if trial.told]


def test_the_next_is_asked_for_as_soon_as_one_pauses_and_the_best_comes_to_its_end(world: World) -> None:
    under_way: list[int] = []
    advance = world.advance
    search_loop.time.sleep = lambda _: (under_way.append(len(world.jobs)), advance())  # type: ignore
    made = world.search()
    assert made.run() == 0
    assert len(made.trials) == len(world.launched) == 6
    assert under_way[:5] == [2] * 5, "no place stays empty while others train"
    told = made.drawer.study(made.trials)
    assert sorted(states(made)) == ["COMPLETE"] + ["PRUNED"] * 5
    best = max(trial.params["optimizer.lr"] for trial in made.trials)
    assert (told.best_value, told.best_params) == (best, {"optimizer.lr": best})
    for trial, one in zip(made.trials, told.trials, strict=True):
        reached = book.reached(runs.load(trial.dir))
        assert one.intermediate_values == {RULES.rungs[rung]: value for rung, value in reached.items()}
        assert one.value == trial.params["optimizer.lr"]
    assert not book.is_open(world.results, "name")
    assert book.promote(world.results, "name", RULES) == []


def test_while_points_are_to_come_nobody_goes_on_for_being_the_best_of_few(world: World) -> None:
    made = world.search(n_trials=3, n_jobs=1)
    assert made.run() == 0
    assert sorted(len(runs.attempts(trial.dir)) for trial in made.trials) == [1, 1, 3]


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_killed_at_any_moment_the_same_command_goes_on_and_launches_nothing_twice(
    world: World, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [steps]

    def killed(_: float) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        world.advance()

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(search_loop.time, "sleep", killed)
        world.search().run()
    world.advance()  # what is queued goes on without it
    before = list(world.launched)
    again = world.search()
    assert again.run() == 0
    assert [trial.dir for trial in again.trials][: len(before)] == before
    assert len(world.launched) == len(again.trials) == 6
    assert states(again).count("COMPLETE") == 1
    third = world.search()
    assert third.run() == 0 and len(world.launched) == 6, "all is done"


def test_more_trials_go_on_with_those_that_are_there(world: World) -> None:
    world.search(n_trials=2).run()
    more = world.search(n_trials=4)
    assert more.run() == 0
    assert len(world.launched) == 4
    assert [trial.before for trial in more.trials] == [True, True, False, False]


def test_a_failed_run_one_ended_by_a_rule_and_one_without_the_metric(world: World) -> None:
    world.fate = {0: "failed", 1: "ended early", 2: "silent"}.get  # type: ignore[assignment]
    made = world.search(n_trials=4, n_jobs=1)
    assert made.run() == 1, "a run failed"
    assert states(made)[:2] == ["FAIL", "PRUNED"]
    assert made.trials[0].why == "failed: because"
    assert made.trials[2].told == search_space.Told(made.trials[2].params, "PRUNED")
    again = world.search(n_trials=4)
    assert again.run() == 1 and len(world.launched) == 4, "a failed one is retried by nano-exp retry, not by the search"


def test_a_controller_that_is_away_is_asked_again_with_the_same_point(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.away = 2
    made = world.search(n_trials=2)
    assert made.run() == 0 and len(world.launched) == 2
    assert capsys.readouterr().err.count("Slurm does not answer: asked again") == 2


def test_what_was_promoted_and_never_sent_is_sent_once_nobody_is_under_way(world: World) -> None:
    send, lost = world.send, []

    def only_from_the_search(run_dir: Path) -> None:
        if runs.attempts(run_dir) and not lost:
            lost.append(run_dir)  # its attempt was killed between the promotion and sbatch
        else:
            send(run_dir)

    world.send = only_from_the_search  # type: ignore[method-assign]
    made = world.search(n_trials=3)
    assert made.run() == 0
    assert lost and "COMPLETE" in states(made)


def test_ctrl_c_ends_the_waiting_and_says_what_to_type(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search_loop.time, "sleep", interrupted)
    monkeypatch.setattr("sys.argv", ["launch.py", "hydra/sweeper=optuna", LR])
    assert world.search().run() == 130
    said = capsys.readouterr().err
    assert len(world.jobs) == 2 and "the jobs go on" in said
    assert f"hydra/sweeper=optuna '{LR}'" in said


def test_refused_points_are_drawn_again_and_a_command_that_fits_none_is_refused_whole(world: World) -> None:
    rule = {"require": "optimizer.lr < 0.5", "because": "reasons"}
    made = world.search(n_trials=3, settings=sweep.read({"constraints": [rule]}))
    assert made.run() == 0
    assert all(trial.params["optimizer.lr"] < 0.5 for trial in made.trials)
    assert made.drawer.dropped
    with pytest.raises(UserError, match="train_micro_batch_size"):
        _refused(world)
    with pytest.raises(UserError, match=r"optimizer\.lrr"):
        world.search(words=["optimizer.lrr=1"])


def _refused(world: World) -> None:
    def check(*_: Any, **__: Any) -> None:
        raise UserError("policy.train_micro_batch_size=0", "it cannot be", "another")

    search_draw.flow.check = check  # type: ignore[assignment]
    world.search(words=["run.name=other"]).run()


def test_two_searches_of_a_name_at_once_are_refused(world: World) -> None:
    with search_loop._only_one(world.results, "name"):
        (world.results / "name").mkdir()
        with pytest.raises(UserError, match="under way"):
            world.search().run()


def test_a_search_that_launches_nothing_leaves_nothing_behind(world: World) -> None:
    with search_loop._only_one(world.results, "name"):
        pass
    assert not world.results.exists()


@pytest.mark.parametrize(
    ("kind", "goes_on", "told"),
    [
        ("paused", False, ("PRUNED", 0.5)),
        ("paused", True, ("PRUNED", 0.5)),
        ("running", True, ("PRUNED", 0.5)),
        ("pending", False, ("PRUNED", 0.5)),
        ("done", False, ("COMPLETE", 0.75)),
        ("ended early", False, ("PRUNED", 0.75)),
        ("failed", False, ("FAIL", None)),
        ("cancelled", False, ("FAIL", None)),
        ("lost", False, ("FAIL", None)),
    ],
)
def test_what_a_run_is_to_optuna(tmp_path: Path, kind: str, goes_on: bool, told: tuple[str, float | None]) -> None:
    run = make_run(tmp_path)
    runs.record_event(run, "rung", rung=0, step=20, value=0.5)
    (run / runs.METRICS).write_text(
        metrics_file.line({"step": 20, METRIC: 0.5}) + metrics_file.line({"step": 30, METRIC: 0.75})
    )
    known, value, steps, _ = search_trials.outcome(runs.load(run), State(kind), goes_on, RULES, METRIC)
    assert (known, value, steps) == (*told, {20: 0.5})


def test_a_run_before_its_first_rung_runs_and_one_without_a_value_there_is_pruned(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert search_trials.outcome(runs.load(run), State("running"), False, RULES, METRIC)[0] == "RUNNING"
    runs.record_event(run, "rung", rung=0, step=20, value=None)
    assert search_trials.outcome(runs.load(run), State("paused"), False, RULES, METRIC)[:3] == ("PRUNED", None, {})
    known, _, _, why = search_trials.outcome(runs.load(run), State("done"), False, None, METRIC)
    assert known == "FAIL" and f"has no {METRIC}" in why


@pytest.mark.parametrize(
    ("typed", "fix"),
    [
        ("model=nano_9b cluster=1n8g", "wait=true"),
        ("dry_run=true", "leave dry_run out"),
        ("submit=false", "leave submit"),
        ("fresh=true", "run.name=ANOTHER"),
    ],
)
def test_a_launch_that_returns_before_there_are_results_is_refused(typed: str, fix: str) -> None:
    config = config_loader().load_configuration("config", typed.split(), run_mode=RunMode.MULTIRUN)
    with pytest.raises(UserError) as caught:
        search_request.require_results(config)
    assert caught.value.fix.startswith(fix)


@pytest.mark.parametrize(
    ("words", "given", "fix"),
    [
        (["halving.higher_is_better=false"], {}, "halving.higher_is_better=true, or hydra.sweeper.direction=minimize"),
        ([], {"direction": "minimize"}, "halving.higher_is_better=false, or hydra.sweeper.direction=maximize"),
        (["sweep.metric=train/reward"], {}, "sweep.metric=validation/accuracy"),
        (["halving.rungs=[]", "sweep.metric=acuracy"], {}, "sweep.metric=validation/accuracy"),
        (["halving.rungs=[]", "grpo.val_period=0", "grpo.val_at_start=false", "grpo.val_at_end=false"], {}, "grpo.val"),
        (["parallel=2"], {}, "hydra.sweeper.n_jobs=N"),
        (["after_training=[export]"], {}, "leave it out"),
        (["canary=true"], {}, "leave canary out"),
        ([], {"direction": "up"}, "hydra.sweeper.direction=maximize or"),
        ([], {"n_jobs": 0}, "hydra.sweeper.n_jobs=4"),
        ([], {"storage": "sqlite:///a.db"}, "leave hydra.sweeper.storage out"),
    ],
)
def test_mistakes_are_refused_before_anything_is_launched(
    world: World, words: list[str], given: dict[str, Any], fix: str
) -> None:
    usual = {"sampler": optuna.samplers.RandomSampler(), "direction": "maximize", "n_trials": 2, "n_jobs": 2}
    typed = OverridesParser.create().parse_overrides([*WORDS, LR, *words])
    metric = next((word.partition("=")[2] for word in words if word.startswith("sweep.metric=")), METRIC)
    with pytest.raises(UserError) as caught:
        wanted = search_request.read({**usual, **given}, typed, sweep.Sweep(metric=metric))
        place = Place(world.take, config_loader(), {}, world.folder)
        search_request.require(search_draw.first_point(place, wanted.space), wanted)
    assert fix in caught.value.fix


def test_without_optuna_the_command_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        app._require_optuna(["hydra/sweeper='optuna'"])
    assert "[optuna]" in caught.value.fix
    app._require_optuna(["optimizer.lr=1"])


def test_killed_on_this_machine_and_typed_again_each_step_is_trained_once(tmp_path: Path, checkout: Path) -> None:
    typed = (
        *standin(checkout),
        *("slurm.where=local", "grpo.max_num_steps=2", "grpo.val_period=1", "checkpointing.save_period=1"),
        *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "optimizer.lr=interval(1e-7,1e-6)"),
        *("sweep.metric=train/reward", "halving.metric=train/reward", "halving.rungs=[1]", "run.name=name"),
    )
    first = start_launch(tmp_path, *typed, STANDIN_STEP_SECONDS="0.02")
    results = tmp_path / "results"
    wait_for(lambda: any(runs.attempts(run.dir) for run in runs.find(results)), "an attempt", 60)
    first.kill()
    first.wait()
    done = launch(tmp_path, *typed, STANDIN_STEP_SECONDS="0.02", timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    found = list(runs.find(results))
    assert len(found) == 3
    lookup = convergence.QueueLookup()
    kinds = [lookup.state(run).kind for run in found]
    assert set(kinds) <= {"done", "paused"} and "done" in kinds
    for run in found:
        steps = [row["step"] for row in metrics_file.read(run.dir) if "train/reward" in row]
        assert steps == list(range(1, len(steps) + 1)), run.id
    [said] = (results / ".searches").glob("*/optimization_results.yaml")
    ends = {run.id: search_trials.last_value(run.dir, "train/reward")[0] for run in found}
    best = files.read_yaml(said)
    assert ends[best["best_run"]] == best["best_value"]
    assert "3 trials" in done.stdout
