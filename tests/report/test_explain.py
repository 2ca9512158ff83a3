"""explain: the cause of a log, whoever launched the job."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from core_case import make_run

from nano_exp import cli, files
from nano_exp.report import explain

CORPUS = Path(__file__).parents[1] / "triage" / "corpus"
OOM = """Traceback (most recent call last):
  File "/opt/nemo-rl/x.py", line 3, in train
    y = f(x)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
"""
#: As `pprint` prints the config: of v0.6.0 (a dict), and of v0.7.0 (an object).
PRINTED = [
    "{'cluster': {'gpus_per_node': 8, 'num_nodes': 2},\n 'policy': {'logprob_batch_size': 4,\n"
    "            'train_micro_batch_size': 4}}\n",
    "MasterConfig(policy={'train_micro_batch_size': 4, 'logprob_batch_size': 4},\n"
    "             loss_fn=ClippedPGLossConfig(ratio_clip_min=0.2),\n             cluster={'num_nodes': 2})\n",
]


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = cli.main(["explain", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


def as_json(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, Any]]:
    code, out, _ = said(capsys, "--json", *words)
    assert code == 0
    found: list[dict[str, Any]] = json.loads(out)
    return found


def test_a_log_has_a_cause_a_fault_its_lines_and_a_fix(capsys: pytest.CaptureFixture[str]) -> None:
    log = CORPUS / "peer_timeout-1" / "stderr.log"
    code, out, _ = said(capsys, log)
    assert code == 0
    head, cause, fault, line, fix = out.splitlines()
    assert head == str(log) and cause.endswith("[peer_timeout]") and "at a checkpoint" in cause
    assert fault.split() == ["fault", *explain.FAULTS["infrastructure"].split()]
    assert "Timed out waiting 1800000ms" in line and "slow storage" in fix


def test_standard_input_is_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(OOM.encode() + b"\xff")))
    (found,) = as_json(capsys, "-")
    assert (found["files"], found["cause"], found["fault"]) == (["-"], "cuda_oom", "config")


def test_a_jobs_two_streams_are_one_and_other_files_are_by_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = "slurmstepd: error: *** JOB 12 ON a CANCELLED AT 2025-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
    content = {
        "slurm-12.out": "▶ Training policy\n",
        "slurm-12.err": OOM,
        "slurm-13.out": limit,
        "notes.txt": "hello\n",
    }
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    found = as_json(capsys, *(tmp_path / name for name in content))
    assert [(len(one["files"]), one["cause"]) for one in found] == [(2, "cuda_oom"), (1, "time_limit"), (1, "none")]
    assert "sacct" in said(capsys, tmp_path / "notes.txt")[1]


@pytest.mark.parametrize("printed", PRINTED)
def test_a_remedy_fits_the_config_that_the_log_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], printed: str
) -> None:
    (tmp_path / "job.log").write_text(f"Final config:\n{printed}Setting up\n{OOM}")
    (found,) = as_json(capsys, tmp_path / "job.log")
    assert "policy.train_micro_batch_size=2 policy.logprob_batch_size=2" in found["remedy"]


@pytest.mark.parametrize("printed", ["{'policy': {'x", "", "(" * 500, "{'a': f(1, **x)}\n", "{1: 2, **{}}\n"])
def test_what_is_no_whole_config_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], printed: str
) -> None:
    (tmp_path / "job.log").write_text(f"Final config:\n{printed}\n{OOM}")
    assert as_json(capsys, tmp_path / "job.log")[0]["cause"] == "cuda_oom"


def test_a_log_in_a_run_of_ours_is_judged_by_its_frozen_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path)
    files.write_text(run / "config.yaml", files.dump_yaml({"run": {"name": "name", "id": run.name}}))
    log = run / "attempts" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("LookupError\n" + OOM.replace("torch.OutOfMemoryError", "LookupError"))
    assert f"nano-exp logs name/{run.name}" in as_json(capsys, log)[0]["remedy"]


def test_a_log_that_ended_well_has_no_fault_whatever_its_workers_raised(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("none-1", "none-2"):
        (found,) = as_json(capsys, *(CORPUS / name).glob("*.log"))
        assert found["cause"] == "none"


@pytest.mark.parametrize("name", ["nothing.log", "."])
def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, _, err = said(capsys, tmp_path / name)
    assert code == 2 and err.startswith("error: ") and "fix: nano-exp explain" in err


def test_lines_are_as_wide_as_the_terminal() -> None:
    text = explain.as_text(explain.explain([str(CORPUS / "cuda_oom-1" / "stderr.log")]), 80)
    assert max(map(len, text.splitlines()[1:])) <= 80
