"""Studies: rules of `stop=` whose metric a config does not log."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View
from nano_exp.study import stop_rules

ASYNC, PENALTY = "grpo.async_grpo.enabled", "loss_fn.reference_policy_kl_penalty"
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


def _not_measurable(name: str, why: str, *keys: str) -> Mistake:
    return Mistake((f"stop.{name}", *keys), f"not measurable: {why}", f"stop.{name}=null")
