"""Secrets of a launch on a real Slurm: the engine gets them, and they stand nowhere else."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from core_case import holding, sha256_line
from launching import SMALL, Lab, assert_executed_once, setting
from pace import paced

from nano_exp.store import runs

pytestmark = pytest.mark.slurm

CANARY = "canary-20d9af5e"
FILE = {"HF_TOKEN": f"{CANARY}-hf", "JUDGE": f"{CANARY}-judge", "PIN": "070533119"}
INHERITED = {"WANDB_API_KEY": "c0ffee20d9af5e0123456789abcdef0123456789", "MY_PASSWORD": f"{CANARY}-password"}
SECRETS = (CANARY, *FILE.values(), *INHERITED.values())


@contextmanager
def argument_lists() -> Iterator[set[str]]:
    """Every line of `ps axww` on this machine (both nodes are on it) while the block runs."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            seen.update(subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout.split("\n"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def test_a_launchs_secrets_reach_the_engine_and_nothing_that_is_written(lab: Lab) -> None:
    env_file = lab.folder / "env.yaml"
    env_file.write_text("".join(f"{name}: {value}\n" for name, value in FILE.items()))
    env_file.chmod(0o600)
    del lab.env["NANO_EXP_ENV"]
    names = " ".join((*FILE, *INHERITED))
    with argument_lists() as seen:
        # Set-up lines on the node make the attempt write a script with what the engine's environment adds.
        launched = lab.launch(
            *SMALL, "site.node_setup=[':']", setting("HASH", names), setting("STEP_SECONDS", paced(0.5)), **INHERITED
        )
        [run] = lab.runs()
        job = lab.job(run)
        lab.wait_for("the engine's start", lambda: (run.dir / "attempts" / "1" / "stdout.log").exists())
        # What Slurm keeps while the job runs: env.yaml's values are not even in its spool; the environment's are.
        slurms = [lab.cluster.state / name for name in ("slurmctld", "slurmd-mini1", "slurmd-mini2")]
        kept = [path for folder in slurms for path in holding(folder, (CANARY + "-hf", FILE["JUDGE"], FILE["PIN"]))]
        lab.wait_ended(run)
    assert kept == []

    printed = (run.dir / "attempts" / "1" / "stdout.log").read_text()
    for name, value in (FILE | INHERITED).items():
        assert sha256_line(name, value) in printed
    assert_executed_once(run)
    assert "@SETTINGS@" not in (run.dir / "attempts" / "1" / "driver.sh").read_text()

    told = {
        "the launcher": launched.text,
        "scontrol show job": lab.cluster.run("scontrol", "--details", "show", "job", job).stdout,
        "the batch script": lab.cluster.run("scontrol", "write", "batch_script", job, "-").stdout,
        "sacct": lab.cluster.run("sacct", "-P", "-j", job, "--format=ALL").stdout,
        "ps": "\n".join(seen),
        "nano-exp status": lab.tool("status", "--json"),
        "nano-exp logs": lab.tool("logs", run.id),
    }
    assert f"environment: {env_file} gives {', '.join(sorted(FILE))}" in told["the launcher"]
    assert "nano_exp.job" in told["the batch script"]
    assert "nano_exp.job" in told["ps"] and "run_grpo" in told["ps"]
    assert f"JobId={job}" in told["scontrol show job"] and job in told["sacct"]
    assert [(who, word) for who, text in told.items() for word in SECRETS if word in text] == []
    assert holding(lab.folder, SECRETS, [env_file]) == []


@pytest.mark.parametrize("export", ["NONE", "LANG"])
def test_they_reach_a_job_that_gets_no_environment(lab: Lab, export: str) -> None:
    """SBATCH_EXPORT=NONE is the default of whole sites."""
    service = {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    names = " ".join((*INHERITED, *service, "NOT_ASKED_FOR"))
    shared = (f"site.hf_home={lab.folder}/hf", f"site.venv_dir={lab.folder}/venvs")  # not the user's own
    typed = (*SMALL, *shared, setting("HASH", f"'{names}'"))
    lab.launch(*typed, SBATCH_EXPORT=export, NOT_ASKED_FOR="x", **INHERITED, **service)
    lab.wait_ended()
    (run,) = lab.runs()
    assert_executed_once(run)
    printed = (run.dir / "attempts" / "1" / "stdout.log").read_text()
    for name, value in (INHERITED | service).items():
        assert sha256_line(name, value) in printed
    assert sha256_line("NOT_ASKED_FOR", "") in printed


def test_a_job_that_lacks_them_all_the_same_stops_and_says_so(lab: Lab) -> None:
    """A site's plugin decides what a job gets; here a wrapper stands in for one."""
    taken = lab.with_command("sbatch", 'unset WANDB_API_KEY; exec $REAL "$@"')
    lab.launch(*SMALL, **INHERITED, **taken)
    lab.wait_ended()
    (run,) = lab.runs()
    end = runs.attempts(run.dir)[0].end
    assert end is not None and end["kind"] == "failed"
    assert end["why"].startswith("the job has no WANDB_API_KEY, and the launch's environment had")
    assert "env.yaml" in (run.dir / "attempts" / "1" / "attempt.log").read_text()
