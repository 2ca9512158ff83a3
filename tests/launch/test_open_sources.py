"""init_from= of a run that has not ended: its word is frozen, it waits for that run, its first attempt settles it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from core_case import TINY, Answer, frozen, make_attempt, make_run, standin

from nano_exp.compose import origins
from nano_exp.compose.freeze import Frozen
from nano_exp.dotted import Config
from nano_exp.engines.nemo_rl import weights
from nano_exp.engines.origin import INIT
from nano_exp.engines.origin import of as origin_of
from nano_exp.errors import UserError
from nano_exp.job import first_weights
from nano_exp.launch import convergence, flow
from nano_exp.report import status
from nano_exp.store import runs

ON_SLURM = ("cluster=local", "slurm.where=slurm")
SOURCE = "pre/r0123456789"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A run of the embedded engine that executes, without a checkpoint."""
    results = tmp_path / "results"
    config = frozen(tmp_path, *TINY, f"run.results={results}").config
    saved = Config(config).changed({"checkpointing.checkpoint_dir": str(results / SOURCE / "checkpoints")})
    folder = make_run(results, name="pre", config=saved)
    make_attempt(folder, 1, runs.this_process())
    return folder


def dependant(source: Path, step: str, *more: str) -> Frozen:
    words = (*TINY, *ON_SLURM, f"run.results={source.parents[1]}", "run.name=post", f"init_from={SOURCE}{step}")
    return frozen(source.parents[2], *words, *more)


def save(source: Path, step: int, accuracy: float) -> None:
    path = source / "checkpoints" / f"step_{step}"
    (path / "policy").mkdir(parents=True)
    (path / "policy" / "weights.pt").touch()
    (path / "manifest.json").write_text('{"files": {}}')
    (path / "training_info.json").write_text(json.dumps({"val:accuracy": accuracy}))


def end(source: Path, kind: str) -> None:
    (source / "attempts" / "1" / "end.json").write_text(json.dumps({"kind": kind, "why": "as told"}))


def made(one: Frozen, results: Path) -> runs.Run:
    (row,) = convergence.make([one], False, Answer([])).rows
    record = {"digest": one.digest, "overrides": list(one.overrides)}
    make_run(results, name="post", run=row.id, config=row.config, record=record)
    return runs.load(row.dir)


def test_the_word_is_frozen_and_is_the_same_run_once_the_source_has_ended(source: Path) -> None:
    waiting = dependant(source, "@best")
    assert waiting.config[INIT] == {"run": SOURCE, "step": "best", "path": str(source)}
    assert dependant(source, "").digest == dependant(source, "@last").digest != waiting.digest
    run = made(waiting, source.parents[1])
    save(source, 1, 0.9)
    save(source, 2, 0.5)
    assert dependant(source, "@1").config[INIT]["path"].endswith("step_1")  # it is there already
    end(source, "done")
    assert dependant(source, "@best").digest == waiting.digest
    assert dependant(source, "@last").config[INIT]["step"] == 2  # nobody launched that one before
    said: list[str] = []
    settled = first_weights.settled(run, waiting.config, said.append)
    assert settled[INIT] == {"run": SOURCE, "step": 1, "path": str(source / "checkpoints" / "step_1")}
    run = runs.load(run.dir)
    run.record["init_from"] = waiting.config[INIT]
    assert (status._origin(run) or {})["step"] == 1
    save(source, 3, 1.0)  # what it once started from stays
    assert first_weights.settled(run, waiting.config, said.append)[INIT]["step"] == 1
    assert said == [f"starts from {SOURCE}@1 (init_from={SOURCE}@best)"]


def test_an_attempt_refuses_a_source_that_is_not_done_or_does_not_fit(source: Path) -> None:
    one = dependant(source, "@last")
    run = made(one, source.parents[1])
    end(source, "failed")
    with pytest.raises(UserError, match="that run is not done"):
        first_weights.settled(run, one.config, print)
    end(source, "done")
    with pytest.raises(UserError, match="no checkpoint in"):
        first_weights.settled(run, one.config, print)
    save(source, 2, 0.5)
    other = Config(one.config).changed({"policy.hf_config_overrides.hidden_size": 16})
    with pytest.raises(UserError, match="hidden_size is 64 there, and 16 here"):
        first_weights.settled(run, other, print)
    assert runs.load(run.dir).last("origin") is None


@pytest.mark.parametrize(
    ("step", "changes", "why"),
    [
        ("@1", {"checkpointing.save_period": 1, "checkpointing.keep_top_k": 2}, "it keeps its best 2 and its last"),
        ("@1", {"checkpointing.save_period": 2, "checkpointing.keep_top_k": None}, "it saves every 2 steps, and"),
        ("@9", {}, "and the last, 2"),
        ("@best", {"checkpointing.metric_name": None}, "metric_name is null"),
        ("@best", {"grpo.val_period": 3, "grpo.val_at_end": False}, "never at the same one"),
        ("@best", {"grpo.val_period": 1, "grpo.val_at_end": False, "checkpointing.save_period": 2}, ""),
        ("@worst", {}, "a number, best or last"),
        ("", {"checkpointing.enabled": False}, "saves no checkpoint"),
        ("", {"policy.hf_config_overrides.hidden_size": 16}, "its tensors have other shapes"),
        ("@1", {"checkpointing.save_period": 1, "checkpointing.keep_top_k": None}, ""),
        ("@2", {"checkpointing.keep_top_k": 1}, ""),
    ],
)
def test_a_step_that_will_not_be_there_is_refused(
    source: Path, step: str, changes: Mapping[str, Any], why: str
) -> None:
    known = Config(runs.load(source).config()).changed(dict(changes))
    with origins.looking({SOURCE: known}):
        if not why:
            assert origin_of(dependant(source, step).config, INIT).is_open  # type: ignore[union-attr]
            return
        with pytest.raises(UserError) as refused:
            dependant(source, step)
    assert why in f"{refused.value.found} {refused.value.why}"


def test_what_is_not_waited_for_is_refused_with_what_to_do(source: Path) -> None:
    with pytest.raises(UserError, match=r"slurm\.where=local"):
        dependant(source, "@last", "slurm.where=local")
    with pytest.raises(UserError, match="is running, and has saved no checkpoint"):
        frozen(source.parents[2], *TINY, f"run.results={source.parents[1]}", f"fork_from={SOURCE}@last")
    end(source, "failed")
    with pytest.raises(UserError, match=r"is failed \(as told\), and has saved no checkpoint") as refused:
        dependant(source, "@last")
    assert refused.value.fix.startswith("nano-exp retry r0123456789, and then")


def test_it_is_submitted_behind_its_source(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = dependant(source, "@last")
    results = source.parents[1]
    rows = convergence.make([one], False, Answer([])).rows
    with pytest.raises(UserError, match=f"init_from={SOURCE}: {SOURCE} runs on this machine"):
        flow.arranged(rows, "slurm", results, None)
    runs.record_event(source, "submit", durable=False, launch="L", array=0, task=None, after_attempt=1, local=None)
    runs.launch_dir(results, "L").mkdir(parents=True)
    runs.record_job(results, "L", 0, "12")
    monkeypatch.setattr(convergence, "QueueLookup", lambda: Answer(["12|PENDING|nx-L.0-pre|Priority"]))
    ready = flow.arranged(rows, "slurm", results, None)
    assert ready.after.terms == ("afterok:12",) and ready.after.sources == (SOURCE,)
    assert [wait.word for wait in ready.after.waits] == [f"afterok:{SOURCE}"]


def test_nemo_rl_compares_configs_and_asks_for_checkpoints_that_can_be_exported(tmp_path: Path) -> None:
    twelve = frozen(tmp_path, *standin(), "run.name=post").config
    thirty = frozen(tmp_path, "model=nano_30b", "cluster=1n8g", f"site.python={sys.executable}").config
    open_one = {"run": SOURCE, "step": "last", "path": str(tmp_path / SOURCE)}
    origin = origin_of({INIT: open_one})
    assert origin is not None
    weights.fits(twelve, origin, twelve)
    with pytest.raises(UserError, match=r"policy\.model_name is"):
        weights.fits(twelve, origin, thirty)
    sharded = Config(thirty).changed({"policy.dtensor_cfg._v2": True})
    with pytest.raises(UserError, match="cannot be exported") as refused:
        weights.fits(sharded, origin, sharded)
    assert "save_consolidated=true" in refused.value.fix
