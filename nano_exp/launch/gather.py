"""Ask about the place, once for a launch: Slurm's commands at the same time, each with a short limit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from nano_exp import environment, slurm
from nano_exp.compose.freeze import Frozen
from nano_exp.errors import UserError
from nano_exp.launch import batch_script, job_arrays
from nano_exp.launch.convergence import Row
from nano_exp.preflight import answers
from nano_exp.preflight.answers import Answers
from nano_exp.preflight.facts import Facts
from nano_exp.slurm import shapes
from nano_exp.store import identity
from nano_exp.store.state import State

#: How long one question may take, seconds.
TIMEOUT_S = 10.0

Answer = TypeVar("Answer")


def facts(
    frozen_configs: Sequence[Frozen], parameters: Mapping[str, Any], submitting: bool, inside: bool = False
) -> Facts:
    """What the rules need to know for these points, Slurm's answers among it where they go to Slurm.

    Parameters
    ----------
    parameters: hydra.launcher's
    submitting: whether this is a launch and not a look
    inside: whether the allocation is there already
    """
    known = Facts(parameters=dict(parameters), submitting=submitting, new=_new(frozen_configs), env_names=env_names())
    if (
        known.new and not inside and frozen_configs[0].config["slurm"]["where"] == "slurm"
    ):  # Slurm knows the others already
        known.answers = ask(frozen_configs, parameters)
    return known


def env_names() -> frozenset[str]:
    """What env.yaml gives. One that cannot be read is the launch's to refuse."""
    try:
        path = environment.find(Path.cwd())
        return frozenset(environment.read(path)) if path is not None else frozenset()
    except UserError:
        return frozenset()


def _new(frozen_configs: Sequence[Frozen]) -> Counter[tuple[str, ...]]:
    """Runs per array that have no folder in the store yet: those are submitted for certain."""
    runs = {}
    for frozen in frozen_configs:
        folder = os.path.join(frozen.config["run"]["results"], frozen.name, identity.run_id(frozen.digest))  # noqa: PTH118 (a Path costs as much as the look)
        runs[folder] = (str(shapes.shape(frozen.config)), frozen.name)
    return Counter(array for folder, array in runs.items() if not os.path.exists(folder))  # noqa: PTH110


def ask(frozen_configs: Sequence[Frozen], parameters: Mapping[str, Any], timeout_s: float | None = None) -> Answers:
    """Slurm's answers about the place.

    Parameters
    ----------
    frozen_configs: what would be sent, of which Slurm is asked for the largest; without any it is not asked for one
    timeout_s: how long one question may take; TIMEOUT_S where it is not said
    """
    if not slurm.available():
        return Answers(available=False)
    limit_s = TIMEOUT_S if timeout_s is None else timeout_s
    silent: list[tuple[str, str]] = []
    options = test_options(frozen_configs, parameters) if frozen_configs else []

    def answer(what: str, argv: Sequence[str], parse: Callable[[str], Answer]) -> Answer | None:
        try:
            done = slurm.ask(argv, limit_s)
        except slurm.NoAnswer as error:
            silent.append((what, str(error)))
            return None
        if done.returncode != 0:
            silent.append((what, _last(slurm.words(done.stderr)) or f"{argv[0]} ended with {done.returncode}"))
            return None
        return parse(done.stdout)

    def test() -> answers.Estimate | None:
        if not frozen_configs:
            return None
        try:
            done = slurm.ask(["sbatch", "--test-only", *options, "--wrap=:"], limit_s)
        except slurm.NoAnswer as error:
            silent.append(("start estimate", str(error)))
            return None
        estimate = answers.parse_test_only(done.returncode, done.stderr)
        if slurm.out_of_reach(estimate.refused):
            silent.append(("start estimate", _last(estimate.refused)))
            return None
        return estimate

    user = slurm.this_user()
    sacctmgr = ["sacctmgr", "--noheader", "--parsable2", "--readonly", "show"]
    with ThreadPoolExecutor(6) as pool:
        nodes = pool.submit(
            answer,
            "partitions",
            ["sinfo", "--all", "--noheader", "--exact", f"--format={answers.SINFO}"],
            answers.parse_nodes,
        )
        settings = pool.submit(answer, "settings", ["scontrol", "show", "config"], answers.parse_settings)
        associations = pool.submit(
            answer,
            "accounts",
            [*sacctmgr, "assoc", f"user={user}", f"format={answers.ASSOCIATIONS}"],
            answers.parse_associations,
        )
        limits = pool.submit(
            answer, "memory limits", ["scontrol", "--oneliner", "show", "partition"], answers.parse_most_mib
        )
        qos = pool.submit(answer, "QOS", [*sacctmgr, "qos", f"format={answers.QOS}"], answers.parse_qos)
        tested = pool.submit(test)
        return Answers(
            True,
            nodes.result(),
            settings.result(),
            associations.result(),
            qos.result(),
            tested.result(),
            limits.result(),
            _together(silent),
        )


def _last(words: str) -> str:
    """The last thing said: what came before led to it."""
    return words.rpartition("; ")[2]


def _together(silent: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Questions that got the same words, in one line."""
    by_words: dict[str, list[str]] = {}
    for what, words in sorted(silent):
        by_words.setdefault(words, []).append(what)
    return tuple(f"{', '.join(what)} ({words})" for words, what in by_words.items())


def test_options(frozen_configs: Sequence[Frozen], parameters: Mapping[str, Any]) -> list[str]:
    """sbatch's options for the largest run of the launch."""
    largest = max(frozen_configs, key=lambda frozen: shapes.shape(frozen.config).nodes)
    row = Row(largest, "test", Path(), largest.config, State("new"), True, True)
    launch = job_arrays.arrange([row], "test", Path())
    script = batch_script.script(launch, launch.arrays[0], dict(parameters))
    launch_options = ("--job-name", "--output", "--error", "--open-mode")
    return [option for option in slurm.script_options(script) if not option.startswith(launch_options)]
