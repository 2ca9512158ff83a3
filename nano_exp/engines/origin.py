"""Where a run's weights come from: another run's checkpoint or a folder, as its frozen config has it.

`init_from` takes the weights alone; `fork_from` goes on with a copy of the checkpoint, optimizer included.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.dotted import leaves
from nano_exp.errors import UserError
from nano_exp.store import identity
from nano_exp.store.runs import Run
from nano_exp.text import as_typed

INIT, FORK = "init_from", "fork_from"


@dataclass(frozen=True)
class Origin:
    """A source of weights.

    Parameters
    ----------
    key: INIT or FORK
    run: name/id of the source; None of a folder
    step: of its checkpoint; None of a folder that is no checkpoint; of an open one it may be `best` or `last`
    path: the checkpoint's step_N, or the folder; of an open one the source's run folder
    """

    key: str
    run: str | None
    step: int | str | None
    path: Path

    @property
    def is_open(self) -> bool:
        """Whether the source had not ended when this was written down: which checkpoint it is, the run's first attempt
        finds out (nano_exp.job.first_weights)."""
        return self.run is not None and "/".join(self.path.parts[-2:]) == self.run

    @property
    def typed(self) -> str:
        """As one types it."""
        return f"{self.run}@{self.step}" if self.run else str(self.path)

    @property
    def frozen(self) -> dict[str, Any]:
        """As a frozen config has it; a folder's path counts in the run's identity under another name."""
        source = {"run": self.run} if self.run else {"folder": str(self.path)}
        return {**source, "step": self.step, "path": str(self.path)}


def of(config: Mapping[str, Any], *keys: str) -> Origin | None:
    """The origin of a frozen config; None where it has none. A fork of a run that had one has both: its checkpoint is
    the fork's, and the weights that it began with are still its reference policy."""
    for key in keys or (FORK, INIT):
        section = config.get(key)
        if isinstance(section, Mapping) and section.get("path"):
            return Origin(key, section.get("run"), section.get("step"), Path(str(section["path"])))
    return None


def started(config: Mapping[str, Any], run: Run) -> Origin | None:
    """What a run started from: as `of`, and of an open origin the checkpoint that it turned out to be, once it did."""
    origin, event = of(config), run.last("origin")
    if origin is None or not origin.is_open or event is None:
        return origin
    return Origin(origin.key, origin.run, event.data.get("step"), Path(str(event.data.get("path"))))


#: What a fork cannot change: its checkpoint is of that model, and stands at that place in that data.
FIXED_IN_A_FORK = {
    "engine.name": "the checkpoint is another engine's",
    "nemo_rl.version": "another version reads other checkpoints",
    "policy.model_name": "the checkpoint is of that model",
    "policy.hf_config_overrides": "the checkpoint is of that model",
    "policy.tokenizer": "the checkpoint is of that model",
    "policy.precision": "the optimizer's state has that precision",
    "grpo.num_prompts_per_step": "the checkpoint's place in the data is counted in batches of that size",
    "data": "the checkpoint's place in the data is one in those data",
}


def differing(config: Mapping[str, Any], source: Mapping[str, Any], section: str) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (the source's value, the run's) of those at or below a section that differ. An empty section is as
    none: examples/configs/sft.yaml leaves out what grpo_math_1B.yaml has as {}."""
    old, new = ({key: value for key, value in leaves(one).items() if value != {}} for one in (source, config))
    keys = [key for key in sorted({*old, *new}) if key == section or key.startswith(f"{section}.")]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def require_same(
    config: Mapping[str, Any],
    source: Mapping[str, Any],
    origin: Origin,
    sections: Mapping[str, str],
    apart: Collection[str] = (),
) -> None:
    """Refuse a run whose config differs from its source's in one of these sections.

    Parameters
    ----------
    sections: dotted key -> why it has to be the same
    apart: keys in them that do not have to be
    """
    for section, why in sections.items():
        different = differing(config, source, section)
        for key, (old, new) in ((key, values) for key, values in different.items() if key not in apart):
            alone = f"; or {INIT}={origin.typed}, which takes the weights alone" if origin.key == FORK else ""
            raise UserError(
                f"{origin.key}={origin.typed}: {key} is {as_typed(old)} there, and {as_typed(new)} here",
                why,
                f"{key}={as_typed(old)}, or another source{alone}",
            )


def require_fork(config: Mapping[str, Any], source: Mapping[str, Any], origin: Origin) -> None:
    """What holds for the forks of every engine. Raises UserError."""
    if origin.run is None or not isinstance(origin.step, int):
        raise UserError(f"{FORK}={origin.typed}", "a fork goes on with a run of the store", f"{FORK}=RUN@STEP")
    require_same(config, source, origin, FIXED_IN_A_FORK)
    steps = int(config["grpo"]["max_num_steps"])
    if steps <= origin.step:
        raise UserError(
            f"{FORK}={origin.typed} and grpo.max_num_steps={steps}",
            "it would have no step left",
            f"grpo.max_num_steps={2 * origin.step}, or an earlier step",
        )
    differences = identity.differences(source, config)
    if not [key for key in differences if key.partition(".")[0] not in (INIT, FORK)]:
        raise UserError(
            f"{FORK}={origin.typed} and no other value changed",
            "it would do again what that run did",
            "nano-exp fork RUN@STEP KEY=VALUE",
        )


def no_optimizer(origin: Origin, place: str) -> UserError:
    """Of a checkpoint that a fork cannot go on with."""
    return UserError(
        f"{FORK}={origin.typed}: {origin.path} has no {place}",
        "it was saved without its optimizer (checkpointing.save_optimizer=false)",
        f"{INIT}={origin.typed}, which takes the weights alone and a new optimizer",
    )
