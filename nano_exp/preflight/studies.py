"""Studies: rules of `stop=` that are not measured or end every run, and rungs that a run does not reach."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from nano_exp.engines.embedded import settings
from nano_exp.errors import nearest
from nano_exp.preflight import driver
from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View
from nano_exp.study import halving, pausing, run_length, stop_rules

RUNGS, HIGHER, SAVES = "halving.rungs", "halving.higher_is_better", "checkpointing.enabled"
#: What the names of metrics begin with.
SECTIONS = ("train", "validation", "timing", "performance", "ray")
LOW, HIGH = "entropy_below", "entropy_above"
#: What makes a run validate, where it does not.
VALIDATES = "grpo.val_period=10"
#: Recipes that train until their data ends have a million steps.
UNBOUNDED = 100_000
ASYNC, PENALTY = run_length.ASYNC, "loss_fn.reference_policy_kl_penalty"
#: From here on synchronous GRPO logs how many groups have different rewards (grpo.py 1207 at v0.6.0).
MIXED_FROM = (0, 6, 0)


@rule(severity="warning", engine=ANY_ENGINE)
def stop_is_measured(c: View) -> Iterator[Mistake]:
    """A rule of stop= has a metric that this config and version log; else it is not measurable and never ends a run."""
    on = stop_rules.on(c.launcher("stop"))
    if "kl_above" in on and not c.get(PENALTY):
        yield _not_measurable("kl_above", f"{stop_rules.KL} is 0 throughout without a KL penalty", PENALTY)
    if "mixed_below" in on and c.on(ASYNC):
        yield _not_measurable(
            "mixed_below", f"async GRPO does not log {stop_rules.MIXED}; stop.flat_steps works", ASYNC
        )
    elif "mixed_below" in on and c.engine == "nemo_rl" and c.version < MIXED_FROM:
        yield _not_measurable("mixed_below", f"{stop_rules.MIXED} is logged from v0.6.0 on; stop.flat_steps works")
    if "behind" in on and not c.validates:
        yield _not_measurable("behind", "nothing validates", "grpo.val_period")


@rule(engine=ANY_ENGINE)
def entropy_has_room(c: View) -> Iterator[Mistake]:
    """stop.entropy_below is less than stop.entropy_above; else one of the two ends every run."""
    on = stop_rules.on(c.launcher("stop"))
    if {LOW, HIGH} <= on.keys() and on[LOW] >= on[HIGH]:
        off = HIGH if f"stop.{HIGH}" in c.typed and f"stop.{LOW}" not in c.typed else LOW
        why = "no entropy is above the one and below the other, so every run would be ended"
        yield Mistake((f"stop.{LOW}", f"stop.{HIGH}"), why, f"stop.{off}=null")


@rule(engine=ANY_ENGINE)
def rungs_are_reached(c: View) -> Iterator[Mistake]:
    """The rungs of a study ascend, end before the run does, are saved, and what compares is logged there."""
    rules = _halving(c)
    if rules is None:
        return
    if any(later <= rung for rung, later in itertools.pairwise(rules.rungs)):
        fix = f"halving.rungs=[{','.join(map(str, sorted(set(rules.rungs))))}]"
        yield Mistake((RUNGS,), "each rung is a later step than the one before", fix)
    most, key = run_length.last_step(c.config)
    if most is not None and rules.rungs[-1] >= most:
        good = [str(rung) for rung in rules.rungs if rung < most]
        why = f"the run ends at step {most}, so nobody would go on from there"
        yield Mistake((RUNGS, *key), why, f"halving.rungs=[{','.join(good)}]")
    if not c.on("checkpointing.enabled"):
        yield Mistake((RUNGS, "checkpointing.enabled"), "a paused run goes on from its checkpoint", f"{SAVES}=true")
    if (unlogged := not_logged(c, rules.metric)) is not None:
        why, instead = unlogged
        yield Mistake(("halving.metric",), why, f"halving.metric={instead}" if instead else VALIDATES)
    if rules.higher_is_better and halving.less_is_better(rules.metric):
        why = "less of it is better, as its name says, and the points with the most would go on"
        yield Mistake(("halving.metric", HIGHER), why, f"{HIGHER}=false")
    if rules.metric.startswith(halving.VALIDATION):
        yield from _validated(c, rules)
    yield from _schedule(c, most)


def not_logged(c: View, metric: str) -> tuple[str, str] | None:
    """Why nobody logs a metric that runs are compared by, and one that is logged ("" where nothing validates).

    None where it is logged, or may be: NeMo RL's losses have more of `train/` than is listed anywhere, and a validation
    with NeMo Gym has its environments' own.
    """
    section, _, name = metric.partition("/")
    embedded, validation = c.engine == "embedded", metric.startswith(halving.VALIDATION)
    measured = settings.VALIDATION_METRICS if embedded else driver.validation_metrics(c)
    known = [f"{halving.VALIDATION}{one}" for one in measured]
    known += [f"train/{one}" for one in (settings.TRAIN_METRICS if embedded else ("reward", "loss"))]
    if not name or section not in SECTIONS:
        same = [one for one in known if one.endswith(f"/{name or section}")]
        return f"metrics are written {', '.join(f'{one}/NAME' for one in SECTIONS)}", (same or known)[0]
    if validation and not c.validates:
        return "nothing validates, so no run has it", ""
    if metric not in known and ((section == "train" and embedded) or (validation and (embedded or not c.gym))):
        same = [one for one in known if one.startswith(f"{section}/")]
        usual = "train/reward" if section == "train" else same[0]
        return f"the {c.engine} engine does not log it", (nearest(metric, same) or [usual])[0]
    return None


def _halving(c: View) -> halving.Halving | None:
    try:
        return halving.of(c.launcher("halving"))
    except (KeyError, TypeError, ValueError):
        return None


def _validated(c: View, rules: halving.Halving) -> Iterator[Mistake]:
    period = c.number("grpo.val_period") or 0
    missed = [rung for rung in rules.rungs if not period or rung % period]
    if missed and not c.has(pausing.AT_END):
        why = "this version validates at multiples of val_period alone, and a rung is compared by a validation"
        yield Mistake((RUNGS, "grpo.val_period"), why, f"grpo.val_period={math.gcd(*rules.rungs)}")


def _schedule(c: View, most: int | None) -> Iterator[Mistake]:
    """Megatron counts weight decay's and the rate's steps from the attempt's own, unless both are told."""
    if not c.megatron:
        return
    style = c.get(pausing.STYLE)
    if style not in (None, "constant"):
        why = "Megatron would spread the weight decay over each attempt's own steps, not the run's"
        yield Mistake((pausing.STYLE,), why, f"{pausing.STYLE}=constant")
    if not c.has(pausing.DECAY) or c.get(pausing.DECAY) is not None:
        return
    if most is None or most >= UNBOUNDED:
        why = "the rate falls over the whole run, whose length is not known before it is trained"
        yield Mistake((pausing.DECAY,), why, f"{pausing.DECAY}=<steps of the whole run>")
    elif most < (c.number(pausing.MAX_STEPS) or most):
        why = f"the rate falls over the whole run, which its data ends at step {most}: an attempt does not count them"
        yield Mistake((pausing.DECAY, pausing.MAX_EPOCHS), why, f"{pausing.DECAY}={most}")


def _not_measurable(name: str, why: str, *keys: str) -> Mistake:
    return Mistake((f"stop.{name}", *keys), f"not measurable: {why}", f"stop.{name}=null")
