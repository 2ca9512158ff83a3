"""What the engines themselves refuse, shown as findings like all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nano_exp import engines
from nano_exp.compose import nearest
from nano_exp.errors import UserError
from nano_exp.nemo_rl import versions
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View


def _refusal(c: View) -> Iterator[Mistake]:
    try:
        engines.get(c.engine).check(dict(c.config))
    except engines.Refused as refused:
        for one in refused.mistakes:
            yield Mistake(one.keys, one.why, one.fix, one.found)
    except UserError as error:
        yield Mistake((), error.why, error.fix, error.found)


@rule(place=True)
def nemo_rl_starts(c: View) -> Iterator[Mistake]:
    """NeMo RL's checkout, interpreter or container is there, in the version that the config was made for."""
    for mistake in _refusal(c):
        yield _without_checkout(c, mistake) if mistake.subject.startswith("site.checkout=") else mistake


def _without_checkout(c: View, mistake: Mistake) -> Mistake:
    """Where there is none, what clones it."""
    checkout = c.site.get("checkout")
    if checkout and c.facts.is_dir(str(checkout)):
        return mistake
    clone = f"{c.prepare} --checkout {'main' if '+' in c.release else c.release}, which clones it"
    return replace(mistake, fix=f"{clone}; or {mistake.fix}")


@rule(engine="embedded")
def embedded_engine(c: View) -> Iterator[Mistake]:
    """The embedded engine can run the config as it is written."""
    yield from _refusal(c)


@rule(engine="embedded")
def model_named(c: View) -> Iterator[Mistake]:
    """A launch on Slurm's GPUs names its model: without model= this is the tiny one, made for a CPU."""
    if not c.on_slurm or "model" in c.typed or "recipe" in c.typed:
        return
    shape = c.launcher("cluster")
    nodes, gpus = shape.get("num_nodes"), shape.get("gpus_per_node")
    models = [model for model, _ in nearest.recipes(versions.option(c.release)) if model != c.model.get("name")]
    yield Mistake(
        (),
        "without model= this is the tiny model of the embedded engine, which learns on a CPU: these GPUs would idle",
        f"one of these: {', '.join(f'model={name}' for name in dict.fromkeys(models))}; the tiny one after all: "
        f"model={c.model.get('name')}",
        f"no model= for {nodes} x {gpus} GPUs of Slurm",
    )
