"""The memory of the leading layouts, phase by phase, against the limit. Needs matplotlib (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.planner.phase_memory import COMFORT, SHARE, Phase
from nano_exp.planner.proposal import Proposal
from nano_exp.planner.ranges import GIB
from nano_exp.planner.search import Option

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A panel for each layout, no more than these.
PANELS = 4
FORMATS = (".png", ".svg")
#: Kinds of memory, each with its colour (Okabe and Ito's, told apart by colour-blind readers) and the terms in it.
KINDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("weights", "#0072B2", ("weights", "policy", "gathered weights", "bf16 copies of experts", "fp32 master weights",
                            "reference, being built")),
    ("gradients", "#56B4E9", ("gradients", "gradients of embedding and output layer", "adapters")),
    ("optimizer state", "#009E73", ("optimizer state", "temporaries of the step")),
    ("activations", "#E69F00", ("activations",)),
    ("logits, temporaries", "#D55E00", ("logits, temporaries",)),
    ("vLLM", "#CC79A7", ("vLLM weights", "vLLM's share", "vLLM beyond its share", "vLLM asleep", "cache")),
    ("refit buffer", "#F0E442", ("refit buffer", "largest tensor, bf16")),
    ("context, fragments", "#999999", ("CUDA context, NCCL", "fragments", "cached blocks")),
)  # fmt: skip
_KIND_OF = {term: name for name, _, terms in KINDS for term in terms}


def draw(proposal: Proposal, options: Sequence[Option], path: Path) -> None:
    """Write the figure.

    Parameters
    ----------
    options: the leading layouts; the first PANELS of them are drawn, and the published one

    Raises
    ------
    UserError: matplotlib is missing, the ending is neither .png nor .svg, the file cannot be written
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(
            f"--plot {path}", f"figures are written as {' or '.join(FORMATS)}", f"--plot {path.with_suffix('.png')}"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"--plot {path}: matplotlib is not installed",
            "it is an extra, since nothing else here needs it",
            "pip install 'nano-exp[plot]', or pip install -e '.[plot]' in a checkout",
        ) from error
    drawn = panels(proposal, options)
    figure = Figure(figsize=(4 + 3.6 * len(drawn), 5.2), layout="constrained", dpi=130)
    axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    artists: dict[str, Any] = {}
    for axis, option in zip(axes, drawn, strict=True):
        artists |= _panel(axis, proposal, option)
    axes[0].set_ylabel("GiB on one GPU")
    job = proposal.job
    figure.suptitle(
        f"{proposal.title}: memory by phase, {job.nodes} x {job.gpus_per_node} {proposal.gpu.name}, "
        f"sequences of at most {job.max_length} tokens"
    )
    order = [name for name, _, _ in KINDS if name in artists] + [name for name in artists if name not in _names()]
    figure.legend(
        [artists[name] for name in order], order, loc="outside lower center", ncols=min(len(order), 6), frameon=False
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise files.unwritable(path, error, "--plot ") from error


def _names() -> list[str]:
    return [name for name, _, _ in KINDS]


def panels(proposal: Proposal, options: Sequence[Option]) -> list[Option]:
    """The first PANELS options; the published one takes the last place where it is not among them."""
    drawn = list(options[:PANELS])
    published = proposal.published
    if published is not None and all(one.layout != published.layout for one in drawn):
        drawn = [*drawn[: PANELS - 1], published]
    return drawn


def stacked(phase: Phase) -> dict[str, float]:
    """Expected GiB of a phase by kind."""
    sizes = dict.fromkeys(_names(), 0.0)
    for term in phase.terms:
        sizes[_KIND_OF[term.name]] += term.size.expected / GIB
    return {name: size for name, size in sizes.items() if size > 0}


def _panel(axis: Axes, proposal: Proposal, option: Option) -> dict[str, Any]:
    colours = {name: colour for name, colour, _ in KINDS}
    phases = [phase for phase in option.phases if phase.name != SHARE]
    drawn: dict[str, Any] = {}
    for place, phase in enumerate(phases):
        bottom = 0.0
        for name, size in stacked(phase).items():
            bars = axis.bar(place, size, 0.66, bottom, color=colours[name], edgecolor="white", linewidth=0.4)
            drawn.setdefault(name, bars)
            bottom += size
        low, high = phase.size.low / GIB, phase.size.high / GIB
        span = [[max(bottom - low, 0)], [max(high - bottom, 0)]]
        whisker = axis.errorbar(place, bottom, span, fmt="none", ecolor="black", elinewidth=1.1, capsize=3.5)
        drawn.setdefault("low to high estimate", whisker)
        label = axis.annotate(
            f"{bottom:.0f}", (place, high), (0, 4), textcoords="offset points", ha="center", fontsize=8
        )
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # readable over the limit's line
    limit = proposal.gpu.gib
    line = axis.axhline(limit, color="black", linewidth=1.4)
    comfort = axis.axhline(limit * (1 - COMFORT), color="black", linewidth=0.9, linestyle=(0, (4, 3)))
    drawn[f"{proposal.gpu.name}: {limit:.1f} GiB"] = line
    drawn[f"{COMFORT:.0%} below: expected sizes of layouts that fit"] = comfort
    published = proposal.published is not None and option.layout == proposal.published.layout
    title = f"{option.layout.title()}\nmicro batch {option.layout.micro_batch}: {option.klass}"
    axis.set_title(title + (", published" if published else ""), fontsize=9.5)
    axis.set_xticks(range(len(phases)), [phase.name.replace(" ", "\n") for phase in phases], fontsize=8, rotation=35)
    axis.set_ylim(0, max(limit * 1.1, *(phase.size.high / GIB * 1.06 for phase in phases)))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", linewidth=0.4, alpha=0.5)
    axis.set_axisbelow(True)
    return drawn
