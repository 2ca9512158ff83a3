"""A chain: runs of which each starts from the one before, all frozen, checked and submitted at once.

Links are launches like others: a later one has `init_from=` of a run that has not ended (nano_exp.compose.origins), so
Slurm starts it when that one is done. On this machine they follow each other in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nano_exp.compose import origins
from nano_exp.engines.origin import INIT
from nano_exp.errors import UserError
from nano_exp.launch import chain_file, flow, launch_request, points, show
from nano_exp.launch.chain_file import Link
from nano_exp.launch.convergence import Row
from nano_exp.launch.flow import Prepared, Recorded
from nano_exp.launch.launch_request import Request
from nano_exp.overrides import Override
from nano_exp.store import halt, runs, state
from nano_exp.store.queue_lookup import QueueLookup

#: The model that the embedded engine has.
MODEL = "nano_tiny"


@dataclass(frozen=True)
class Step:
    """A link that was frozen.

    Parameters
    ----------
    row: its run
    planned: the runs of earlier links that are under way, or will be
    """

    link: Link
    request: Request
    parameters: dict[str, Any]
    row: Row
    planned: Mapping[str, dict[str, Any]]

    @property
    def run(self) -> str:
        return f"{self.row.frozen.name}/{self.row.id}"


def launch(name: str, typed: Sequence[str]) -> int:
    """Launch a chain. Returns the exit code.

    Raises
    ------
    UserError: a link cannot be launched. Where it is found before, nothing of any link is submitted
    """
    steps = frozen(name, chain_file.read(name, typed))
    _require_together(steps)
    if steps[0].request.switches["dry_run"]:
        return _dry_run(steps)
    prepared = _checked(steps)
    recorded: list[Recorded] = []
    for step, one in zip(steps, prepared, strict=True):
        _headline(step)
        try:
            recorded.append(flow.record(one))
        except UserError:
            _say_sent(steps[: len(recorded)])
            raise
    return _finish(steps, recorded)


def frozen(name: str, links: Sequence[Link]) -> list[Step]:
    """The links as runs, each from the run of its source. Raises UserError."""
    steps: list[Step] = []
    planned: dict[str, dict[str, Any]] = {}
    for link in links:
        with _named(link), origins.looking(planned):
            _refuse_by_hand(link.words)
            _require_algorithm(link)
            source = next((step.run for step in steps if step.link.name == link.source), "")
            one = points.composed(_words(name, link, source))
            if len(one.points) != 1:
                raise UserError(
                    f"{len(one.points)} points",
                    "a link is one run",
                    "one value for each key, or a chain for each point",
                )
            request = launch_request.read(one.points, one.parameters, one.folder, one.constraints)
            plan = request.plan()
            if flow.code_of(plan):
                show.plan(plan)
                raise UserError(
                    f"its run is {plan.rows[0].state.kind}",
                    state.MEANING[plan.rows[0].state.kind][0],
                    "the same chain with fresh=true starts anew, or give the keys above their old values",
                    code=3,
                )
        (row,) = plan.rows
        steps.append(Step(link, request, one.parameters, row, dict(planned)))
        if row.submit or row.state.kind in state.ACTIVE:
            planned[steps[-1].run] = row.config
    return steps


def _words(name: str, link: Link, source: str) -> list[str]:
    """What is composed for a link; its runs have the chain's name where no other one is typed."""
    words = list(link.words)
    if not any(Override.parse(word).key == "run.name" for word in words):
        words.append(f"run.name={name}")
    if link.algorithm == chain_file.SFT:
        words = chain_file.last_of_each([*words, "engine=embedded_sft"])
    return [*words, f"{INIT}={source}@{link.step}"] if source else words


def _require_algorithm(link: Link) -> None:
    """Supervised steps are those of the embedded engine, which has one model. Raises UserError."""
    typed = [one.unquoted for one in map(Override.parse, link.words) if one.key == "model"]
    if link.algorithm == chain_file.SFT and typed not in ([], [MODEL]):
        raise UserError(
            f"algorithm: sft with model={typed[-1]}",
            "supervised links are the embedded engine's; NeMo RL's examples/run_sft.py is not started from here",
            f"train it with NeMo RL, and begin the chain at the next link with {INIT}=/path/to/its/step_N (its weights "
            "exported, or saved with checkpointing.save_consolidated=true)",
        )


def _refuse_by_hand(words: Sequence[str]) -> None:
    if any((one.key, one.unquoted.lower()) == ("submit", "false") for one in map(Override.parse, words)):
        raise UserError(
            "submit=false with a chain",
            "a later link waits for the job of an earlier one, which has no number before it is submitted",
            "leave it out; dry_run=true shows the batch scripts",
        )


def _require_together(steps: Sequence[Step]) -> None:
    """What holds for all links. Raises UserError."""
    for what, values in (
        ("run.results", {str(step.request.results) for step in steps}),
        ("slurm.where", {step.request.where for step in steps}),
        ("dry_run", {step.request.switches["dry_run"] for step in steps}),
    ):
        if len(values) > 1:
            raise UserError(
                f"links with {what}: {', '.join(sorted(map(str, values)))}",
                "a later link starts from what an earlier one left, in one store and one place",
                f"{what}=... for all links, without LINK: before it",
            )


def _checked(steps: Sequence[Step]) -> list[Prepared]:
    """All links through preflight, before anything is written. Raises UserError with the mistakes of all of them."""
    prepared, refused = [], []
    for step in steps:
        with origins.looking(step.planned):
            try:
                one = flow.prepare(step.request, step.parameters)
                # What it would be sent after, as far as that is not of this chain.
                flow.arranged([step.row], step.request.where, step.request.results, step.request.terms)
                prepared.append(one)
            except UserError as error:
                refused.append((step, error))
    for step, mistake in refused[:-1]:
        print(f"link {step.link.name}:\n{mistake}", file=sys.stderr)
    if refused:
        last, mistake = refused[-1]
        print(f"link {last.link.name}:", file=sys.stderr)
        raise mistake
    return prepared


def _dry_run(steps: Sequence[Step]) -> int:
    refused: UserError | None = None
    for step in steps:
        _headline(step)
        with origins.looking(step.planned):
            report = flow.look(step.request.frozen_configs, step.parameters, submitting=False)
            flow.dry_run(step.request, step.parameters, report.start)
            try:
                flow.refuse(report)
            except UserError as error:
                print(f"link {step.link.name}:\n{error}", file=sys.stderr)
                refused = error
    return 0 if refused is None else refused.code


def _headline(step: Step) -> None:
    source = f", from {step.link.source}@{step.link.step}" if step.link.source else ""
    print(f"\nlink {step.link.name}: {step.run}{source}", flush=True)


def _say_sent(steps: Sequence[Step]) -> None:
    if steps:
        names = ", ".join(f"{step.link.name} ({step.run})" for step in steps)
        print(f"sent before that: {names}; the same command sends the rest", file=sys.stderr)


@contextmanager
def _named(link: Link) -> Iterator[None]:
    """Which link a mistake is in."""
    try:
        yield
    except UserError as error:
        print(f"link {link.name}:", file=sys.stderr)
        raise error


def _finish(steps: Sequence[Step], recorded: Sequence[Recorded]) -> int:
    """Execute the links here, one after the other, where there is no Slurm; or wait where that is asked for."""
    codes = []
    for place, (step, one) in enumerate(zip(steps, recorded, strict=True)):
        why = _in_vain(step) if one.request.where == "local" and one.ready is not None else ""
        if why:
            halt.cancelled(runs.load(step.row.dir), why, None)
            print(f"\nlink {step.link.name}: {step.run} does not start: {why}", file=sys.stderr)
            codes.append(1)
            continue
        code = flow.finish(one).code
        codes.append(code)
        if code == 130:
            for other in steps[place + 1 :]:
                halt.cancelled(runs.load(other.row.dir), f"Ctrl-C in link {step.link.name}", None)
            return code
    return max(codes)


def _in_vain(step: Step) -> str:
    """Why a link's source will not come, of runs on this machine."""
    section = step.row.config.get(INIT) or {}
    source = section.get("run")
    if not source:
        return ""
    run = runs.load(step.request.results / source)
    now = QueueLookup().state(run)
    return "" if now.kind == "done" else f"it comes after {source} ({now.kind})"
