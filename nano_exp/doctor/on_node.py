"""A node's own part: a job of one GPU that runs a few lines of sh there, and what they say."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nano_exp import slurm
from nano_exp.doctor.check import Checked, Said, error, fine, warning
from nano_exp.doctor.place import Place
from nano_exp.doctor.slurm_checks import out_of_reach, skew
from nano_exp.engines.nemo_rl.engine import OPEN_FILES
from nano_exp.preflight.facts import existing
from nano_exp.text import size

NAME = "on-node"
JOB = "nano-exp-doctor"
#: Less than this in a node's /tmp is too little for Ray's private folder, KiB.
TMP_KIB = 10 * 2**20


def checked(place: Place, wait_s: int) -> Checked:
    """Send the job, wait for a node, and judge what it says."""
    started = time.monotonic()
    said = tuple(_look(place, wait_s))
    return Checked(NAME, said, time.monotonic() - started)


def _look(place: Place, wait_s: int) -> Iterator[Said]:
    if silent := out_of_reach(place):
        yield silent
        return
    print(f"on-node: waiting up to {wait_s} s for a node (job {JOB}) ...", file=sys.stderr, flush=True)
    with tempfile.NamedTemporaryFile(dir=existing(str(place.results)), prefix=f".{JOB}-") as mark:
        problem, told = _ask(place, Path(mark.name), wait_s)
    if "done" in told:
        yield from judge(told, place)
        return
    yield warning(
        f"no node looked: {problem}",
        "what the nodes have is not known",
        f"nano-exp doctor --on-node --wait {4 * wait_s}, or another site.partition=; sinfo shows which nodes are idle",
    )


def _ask(place: Place, mark: Path, wait_s: int) -> tuple[str, Mapping[str, str]]:
    """Slurm's words, and what the node said; srun is killed with what it waits for."""
    try:
        done = slurm.ask([*_srun(place, wait_s), "sh", "-c", script(place, mark)], wait_s + 30.0)
    except (slurm.NoAnswer, KeyboardInterrupt) as silence:
        slurm.ask(["scancel", f"--name={JOB}", f"--user={slurm.this_user()}"], 5.0)
        if isinstance(silence, KeyboardInterrupt):
            raise
        return str(silence), {}
    return slurm.words(done.stderr) or f"srun ended with {done.returncode}", parse(done.stdout)


def _srun(place: Place, wait_s: int) -> list[str]:
    """One task on one node with one GPU, where the runs would be."""
    options = [f"--{name}={value}" for name in ("partition", "account", "qos") if (value := place.parameters.get(name))]
    gres = str(place.config.get("site.gres") or "")
    if place.on_slurm and gres != "none" and any(n.gpu_count() for n in place.answers().nodes or ()):
        options.append(f"--gres={gres or 'gpu'}:1")
    common = [f"--job-name={JOB}", "--nodes=1", "--ntasks=1", "--time=2", f"--immediate={wait_s}", "--mpi=none"]
    return ["srun", *common, *options]


def script(place: Place, mark: Path) -> str:
    """Lines of sh that print NAME=VALUE, and `done=1` at the end."""
    paths = {
        "python3": sys.executable,
        "checkout": place.existing_path("site.checkout"),
        "hf_home": place.existing_path("site.hf_home"),
        "image": place.config.get("site.container.image"),
        "results": str(existing(str(place.results))),
        "mark": str(mark),
    }
    lines = [
        "echo host=$(hostname)",
        "echo time=$(date +%s)",
        "echo gpus=$(ls /dev/nvidia[0-9]* 2>/dev/null | wc -l)",
        "echo smi=$(nvidia-smi -L 2>/dev/null | head -1)",
        "echo tmp_kib=$(df -Pk /tmp | awk 'NR==2 {print $4}')",
        "echo files=$(ulimit -Hn)",
        "echo apptainer=$(command -v apptainer)",
    ]
    for name, path in paths.items():
        if path and str(path).startswith("/"):
            lines.append(f"test -e {shlex.quote(str(path))} && echo {name}=yes || echo {name}=no")
    if (python := place.config.get("site.python")) and place.config.get("site.entry") in (None, "bare"):
        lines.append(f"echo engine_python=$({shlex.quote(str(python))} --version 2>&1)")
    return "; ".join([*lines, "echo done=1"])


def parse(text: str) -> dict[str, str]:
    """NAME=VALUE lines; others are a prologue's."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def judge(told: Mapping[str, str], place: Place) -> Iterator[Said]:
    """What a node said, against what the runs need there."""
    host = told.get("host", "the node")
    if told.get("mark") == "no":
        yield error(
            f"{host} does not see {existing(str(place.results))}",
            "the job on its node finds its config there, and writes back",
            "run.results=<a folder on a file system that the nodes share> (NANO_EXP_RESULTS for good)",
        )
    for name, key, path in (
        ("checkout", "site.checkout", place.config.get("site.checkout")),
        ("hf_home", "site.hf_home", place.config.get("site.hf_home")),
        ("image", "site.container.image", place.config.get("site.container.image")),
    ):
        if told.get(name) == "no":
            yield error(f"{host} does not see {key}={path}", "the engine reads it there", f"{key}=<a shared path>")
    if told.get("python3") == "no":
        yield error(
            f"{host} does not see {sys.executable}",
            "attempts run with the interpreter that launched them",
            "install nano-exp into an environment on a shared file system: python3.11 -m venv /shared/venv",
        )
    python = told.get("engine_python", "Python")
    if not python.startswith("Python"):
        yield error(
            f"{host}: site.python: {python or 'did not start'}",
            "it runs the engine",
            "site.python=/shared/venv/bin/python",
        )
    if place.nemo_rl and told.get("gpus") == "0":
        yield error(
            f"{host} has no /dev/nvidia*", "NeMo RL trains on GPUs", "another site.partition=, or site.gres=gpu"
        )
    if (
        place.config.get("site.entry") == "apptainer"
        and not told.get("apptainer")
        and not place.config.get("site.modules")
    ):
        yield error(
            f"{host} has no apptainer on PATH", "site.entry=apptainer runs the engine in it", "site.modules=[apptainer]"
        )
    free = told.get("tmp_kib", "")
    if free.isdigit() and int(free) < TMP_KIB:
        yield warning(
            f"{host}: /tmp has {size(int(free) * 1024)} free",
            "Ray keeps its private folder there",
            "site.env.RAY_TMPDIR=/a/short/local/path",
        )
    if (limit := told.get("files", "")).isdigit() and int(limit) < OPEN_FILES:
        yield warning(
            f"{host}: {limit} open files at most",
            "Ray needs more",
            "the administrators raise it for slurmd (LimitNOFILE=65536)",
        )
    if told.get("time", "").isdigit():
        clock = skew(f"the clock of {host}", float(told["time"]) - time.time(), 30.0)
        if clock.level != "ok":
            yield clock
    room = f", /tmp {size(int(free) * 1024)} free" if free.isdigit() else ""
    kind = f" ({told['smi']})" if told.get("smi") else ""
    yield fine(f"{host}: {told.get('gpus', '?')} GPUs{kind}{room}")
