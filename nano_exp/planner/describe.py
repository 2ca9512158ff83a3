"""A proposal in words and as JSON."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

from nano_exp import project
from nano_exp.layout import parameters
from nano_exp.planner import gpus, host_memory, search, verdict
from nano_exp.planner.phase_memory import SHARE, Phase
from nano_exp.planner.proposal import Proposal
from nano_exp.planner.ranges import GIB, Range
from nano_exp.planner.search import Option
from nano_exp.text import table

MEANING = {
    "fits": "the expected size leaves 8% of the GPU free, and the high one is within it",
    "tight": "it may not fit",
    "no": "not even the low estimate fits",
}


def chosen(proposal: Proposal, number: int) -> list[Option]:
    """The best `number` of different layouts, and after them the published and the typed one where they are not."""
    options = search.shortlist(proposal.options, number)
    for one in (proposal.published, proposal.typed):
        if one is not None and all(one.layout != other.layout for other in options):
            options.append(one)
    return options


def as_text(proposal: Proposal, number: int) -> str:
    """Table of layouts, breakdown of the best and of the published one, and what to type."""
    options = chosen(proposal, number)
    parts = ["\n".join(_head(proposal)), _layouts(proposal, options)]
    detailed = [options[0]]
    if proposal.published is not None and proposal.published.layout != options[0].layout:
        detailed.append(proposal.published)
    parts += [_breakdown(proposal, option, options.index(option) + 1) for option in detailed]
    return "\n\n".join([*parts, _commands(proposal, options)])


def _head(proposal: Proposal) -> list[str]:
    job, gpu = proposal.job, proposal.gpu
    count = parameters.total(job.architecture).total
    nodes = f"{job.nodes} node" + ("s" if job.nodes > 1 else "")
    lines = [
        f"{job.architecture.name}: {count:,} parameters; {nodes} x {job.gpus_per_node} {gpu.name} of {gpu.gib:.1f} "
        f"GiB; NeMo RL {proposal.version}; sequences of at most {job.max_length} tokens"
    ]
    if proposal.assumed:
        lines.append("assumed: " + "; ".join(proposal.assumed))
    learned = calibrated(proposal)
    if learned:
        record = gpus.calibration(gpu.name) or {}
        runs = " and ".join(map(str, record.get("backends") or ())) or "earlier"
        count = record.get("observations", "some")
        lines.append(f"calibrated on {gpu.name} by {count} peaks of {runs} runs: {', '.join(learned)}")
    else:
        lines.append(f"not calibrated: no peaks of such a run on {gpu.name} were recorded (nano-exp plan --calibrate)")
    return lines


def calibrated(proposal: Proposal) -> list[str]:
    """The constants that were fitted to measured peaks on this GPU."""
    return list((gpus.calibration(proposal.gpu.name) or {}).get("constants", {}))


def _layouts(proposal: Proposal, options: list[Option]) -> str:
    rows = []
    for place, option in enumerate(options, 1):
        worst = option.telling
        marks = [
            name
            for name, one in (("published", proposal.published), ("typed", proposal.typed))
            if one is not None and one.layout == option.layout
        ]
        if marks == ["published", "typed"]:
            marks = marks[:1]
        batch = f"{option.layout.micro_batch} x {proposal.job.max_length}"
        rows.append(
            (
                place,
                option.layout.title(),
                batch,
                option.klass,
                worst.name,
                _span(worst.size),
                f"{worst.limit / GIB:.1f}",
                f"{option.training_headroom / GIB:.1f}",
                f"{host_memory.node(option.job, math.inf).size.expected / GIB:.0f}",
                f"{proposal.relative(option):.2f}",
                ", ".join(marks),
            )
        )
    head = ("", "layout", "micro batch", "memory", "fullest phase", "GiB (low-high)", "of", "free", "host", "time", "")
    total = len(proposal.options)
    base = "the published layout" if proposal.published is not None else "the first one"
    notes = [
        f"{len(rows)} of {total} layouts; free: expected GiB left in what the layout decides (not vLLM's share).",
        "host: expected GiB of host memory on each node; whether it is there, Slurm knows, and preflight asks.",
        f"time: a step's, relative to {base}; an estimate that was never measured, good for ranking only.",
        *(f"the layout as typed is not valid: {problem}" for problem in proposal.invalid),
        *(("nano-exp check with the same words says what to type instead",) if proposal.invalid else ()),
    ]
    return table(head, rows, indent="") + "\n" + "\n".join(notes)


def _span(size: Range) -> str:
    return f"{size.expected / GIB:.1f} ({size.low / GIB:.1f}-{size.high / GIB:.1f})"


def _breakdown(proposal: Proposal, option: Option, place: int) -> str:
    published = proposal.published is not None and option.layout == proposal.published.layout
    mark = ", as published" if published else ""
    rows = [_phase_row(phase) for phase in option.phases]
    return (
        f"{place}: {option.layout.title()}{mark}: expected GiB on one GPU\n"
        + table(("phase", "memory", "GiB (low-high)", "of", "made of"), rows)
        + f"\n{_host(proposal, option)}"
    )


def _host(proposal: Proposal, option: Option) -> str:
    """Host memory in a line; whether it is there, Slurm knows, and preflight asks it."""
    phase = host_memory.node(option.job, math.inf)
    terms = sorted(phase.terms, key=lambda term: -term.size.expected)
    parts = ", ".join(f"{t.name} {t.size.expected / GIB:.0f}" for t in terms if t.size.expected >= GIB)
    size = phase.size
    return f"host memory of a node: {size.expected / GIB:.0f} GiB ({size.low / GIB:.0f}-{size.high / GIB:.0f}): {parts}"


def _phase_row(phase: Phase) -> tuple[str, ...]:
    terms = ", ".join(
        f"{term.name} {term.size.expected / GIB:.1f}" for term in phase.terms if term.size.expected >= 0.05 * GIB
    )
    stage = f" (stage {phase.stage + 1})" if phase.stage else ""
    return phase.name + stage, phase.klass, _span(phase.size), f"{phase.limit / GIB:.1f}", terms


def _commands(proposal: Proposal, options: list[Option]) -> str:
    best, lines = options[0], []
    if best.klass != "fits":
        lines.append(f"no layout surely fits; the best one is {best.klass}: {MEANING[best.klass]}")
        fix = verdict.cheapest_fix(best.job, proposal.gpu, proposal.constants)
        lines += [f"it fits with: {fix}"] if fix else []
    lines.append(f"to take one of them: {project.launcher()} " + " ".join([*map(shlex.quote, proposal.words), "..."]))
    for place, option in enumerate(options, 1):
        typed = search.as_text(proposal.overrides(option))
        lines.append(f"{place}  {typed or '(nothing more: it is the published one)'}")
    return "\n".join(lines)


# --- JSON -----------------------------------------------------------------------------------------------------------


def as_json(proposal: Proposal) -> str:
    """Every layout with its phases, GiB, and what to type."""
    job, gpu = proposal.job, proposal.gpu
    whole = parameters.total(job.architecture)
    return json.dumps(
        {
            "model": job.architecture.name,
            "parameters": {
                "total": whole.total,
                "experts": whole.experts,
                "active": parameters.active(job.architecture),
            },
            "nodes": job.nodes,
            "gpus_per_node": job.gpus_per_node,
            "gpu": {"name": gpu.name, "gib": gpu.gib},
            "nemo_rl": proposal.version,
            "max_length": job.max_length,
            "mean_length": job.mean_length,
            "assumed": list(proposal.assumed),
            "words": list(proposal.words),
            "calibrated": calibrated(proposal),
            "classes": MEANING,
            "layouts": [_option_json(proposal, option) for option in proposal.options],
        },
        indent=1,
    )


def _option_json(proposal: Proposal, option: Option) -> dict[str, Any]:
    n, worst = option.layout, option.telling
    return {
        "layout": n.title(),
        "backend": n.backend,
        "tensor": n.tensor,
        "pipeline": n.pipeline,
        "context": n.context,
        "expert": n.expert,
        "data": max(proposal.job.world // n.model_parallel, 1),
        "recompute": n.recompute,
        "offload": n.offload,
        "batching": n.batching,
        "micro_batch": n.micro_batch,
        "published": proposal.published is not None and n == proposal.published.layout,
        "typed": proposal.typed is not None and n == proposal.typed.layout,
        "class": option.klass,
        "fullest_phase": worst.name,
        "free_gib": round(option.training_headroom / GIB, 2),
        "relative_time": round(proposal.relative(option), 3),
        "relative_time_is": "an estimate, not measured",
        "overrides": search.as_words(proposal.overrides(option).items()),
        "host_gib": _gib(host_memory.node(option.job, math.inf).size),
        "phases": [_phase_json(phase) for phase in option.phases],
    }


def _phase_json(phase: Phase) -> dict[str, Any]:
    return {
        "phase": phase.name,
        "class": phase.klass,
        "gib": _gib(phase.size),
        "limit_gib": round(phase.limit / GIB, 2),
        "limit_is": "vLLM's share" if phase.name == SHARE else "the GPU",
        "stage": phase.stage + 1,
        "terms": {term.name: _gib(term.size) for term in phase.terms},
    }


def _gib(size: Range) -> dict[str, float]:
    return {name: round(value / GIB, 2) for name, value in size._asdict().items()}
