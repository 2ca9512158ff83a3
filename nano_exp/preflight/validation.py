"""What NeMo RL asks of validations after v0.7.0: sampling of their own, several answers to a prompt, an early stop."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.driver import GROUPED, validation_metrics
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View

AFTER = ">=v0.8.0"
STOP, THRESHOLD = "grpo.stop_at_validation_metric", "grpo.stop_at_validation_threshold"
SAMPLING = "policy.generation."


@rule(versions=AFTER)
def validation_sampling(c: View) -> Iterator[Mistake]:
    """A validation samples as training does, but for temperature and top_p with vLLM and NeMo Gym (grpo.py, setup)."""
    for name in ("temperature", "top_p", "top_k"):
        own, train = f"{SAMPLING}val_{name}", f"{SAMPLING}{name}"
        if not c.has(own):
            yield Mistake((), "NeMo RL reads it without a default and stops", f"++{own}={c.get(train)}", f"no {own}")
        elif c.get(own) != c.get(train) and not (c.vllm and c.gym):
            yield Mistake(
                (own, train),
                "only the requests of NeMo Gym to vLLM carry a validation's own sampling; NeMo RL stops",
                f"{own}={_typed(c.get(train))}, as {train} is",
            )
        elif name == "top_k" and c.get(own) and c.get(own) != c.get(train):
            yield Mistake(
                (own,), "NeMo Gym's requests carry no top_k, so it would have no effect; NeMo RL stops", f"{own}=null"
            )


def _typed(value: object) -> object:
    return "null" if value is None else value


@rule(versions=AFTER)
def validation_answers(c: View) -> Iterator[Mistake]:
    """Each prompt of a validation is answered at least once."""
    answers = c.number(GROUPED)
    if answers is not None and answers < 1:
        yield Mistake((GROUPED,), "it is the number of answers to each prompt of a validation", f"{GROUPED}=1")


@rule(versions=AFTER)
def early_stop(c: View) -> Iterator[Mistake]:
    """A run that stops at a validation's metric validates, has that metric, and a threshold for it.

    The assertions of setup() and of _validation_stop_value (grpo.py).
    """
    metric = c.get(STOP)
    if metric is None:
        return
    off = f"{STOP}=null"
    if c.get(THRESHOLD) is None:
        yield Mistake(
            (STOP, THRESHOLD), "a metric is reached at a value; NeMo RL stops without one", f"{THRESHOLD}=0.9"
        )
    if not c.validates:
        yield Mistake(
            (STOP, "grpo.val_period"), "nothing validates, so it is never reached", f"grpo.val_period=10, or {off}"
        )
    elif metric == "pass_k" and (c.number(GROUPED) or 1) <= 1:
        yield Mistake(
            (STOP, GROUPED),
            "pass@k is measured where a prompt is answered several times; NeMo RL stops",
            f"{GROUPED}=4, or {STOP}=accuracy",
        )
    elif not c.gym and metric not in validation_metrics(c):
        yield Mistake(
            (STOP,),
            f"a validation without NeMo Gym measures {', '.join(validation_metrics(c))} alone: NeMo RL stops after the "
            "first one",
            f"{STOP}=accuracy, or {off}",
        )
