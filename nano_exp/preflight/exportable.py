"""What comes after training, judged before it: whether the checkpoints that a run will save can be exported."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.engines.nemo_rl.converters import SETS
from nano_exp.engines.nemo_rl.weights import not_exportable
from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View

SAVES = "checkpointing.enabled"


@rule(engine=ANY_ENGINE)
def checkpoints_are_exportable(c: View) -> Iterator[Mistake]:
    """after_training= has checkpoints that NeMo RL's converters read, and data that it evaluates."""
    words = c.config.get("after_training") or []
    words = words if isinstance(words, list) else [words]
    if not words:
        return
    if not c.on(SAVES):
        yield Mistake((SAVES, "after_training"), "it takes the weights of a checkpoint", f"{SAVES}=true")
        return
    if c.engine != "nemo_rl":
        return
    why, fix = not_exportable(c.config)
    if why:
        yield Mistake(("checkpointing.model_save_format", "checkpointing.save_consolidated"), why, fix)
    for word in words:
        data = str(word).partition(":")[2]
        if str(word).startswith("eval") and data not in SETS and not c.on("env.should_use_nemo_gym"):
            yield Mistake(
                ("after_training",),
                "NeMo RL evaluates runs without Gym on benchmark sets (examples/run_eval.py)",
                f"after_training=[export,eval:math500], or another of {', '.join(SETS)}",
            )
