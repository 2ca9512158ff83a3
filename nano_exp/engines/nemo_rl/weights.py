"""NeMo RL's checkpoints as weights: which of them a run can start from or go on with, and by which of its keys.

Facts are of NeMo RL v0.5.0 to v0.7.0 (file and line in brackets are v0.7.0's).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_exp.dotted import Config as Read
from nano_exp.engines import checkpoints
from nano_exp.engines import origin as origins
from nano_exp.engines.origin import FORK, INIT, Origin
from nano_exp.errors import UserError
from nano_exp.nemo_rl import versions

Config = Mapping[str, Any]
#: Inside a step_N.
ITERATION = "policy/weights/iter_0000000"
#: A Hugging Face tree that DTensor v2 writes beside its shards with checkpointing.save_consolidated=true.
CONSOLIDATED = "policy/weights/model/consolidated"
#: policy.pretrained_checkpoint reads a Megatron checkpoint as it is (models/megatron/setup.py 378).
PRETRAINED_FROM = (0, 7, 0)
FORMAT, WHOLE = "checkpointing.model_save_format", "checkpointing.save_consolidated"
OVERRIDE = "policy.megatron_cfg.scheduler.override_opt_param_scheduler"
_MODEL = {
    "policy.model_name": "its tensors have other shapes, or other meanings",
    "policy.hf_config_overrides": "its tensors have other shapes",
}
#: Of them what no tensor depends on: the 30B's GRPO recipes have it, its SFT recipes have not.
_OF_A_LOSS = ("policy.hf_config_overrides.router_aux_loss_coef",)


def is_megatron(config: Config) -> bool:
    return Read(config).on("policy.megatron_cfg.enabled")


def is_v2(config: Config) -> bool:
    """Whether DTensor's second worker trains (models/policy/lm_policy.py 135)."""
    return Read(config).on("policy.dtensor_cfg._v2")


def has_lora(config: Config) -> bool:
    read = Read(config)
    return read.on("policy.dtensor_cfg.lora_cfg.enabled") or read.on("policy.megatron_cfg.peft.enabled")


def version(config: Config) -> tuple[int, ...]:
    return versions.order(Read(config).text("nemo_rl.version"))


def not_exportable(config: Config) -> tuple[str, str]:
    """Why no converter takes the checkpoints of this config, and the override that makes it one; empty where one does.

    DTensor v2 writes safetensors in shards unless told otherwise (models/automodel/checkpoint.py), which
    convert_dcp_to_hf.py does not read.
    """
    read = Read(config)
    if has_lora(config):
        return "no converter here merges a LoRA adapter with its base", "the adapter as it is, or training without LoRA"
    if is_megatron(config) or not is_v2(config):
        return "", ""
    if read.text(FORMAT, "safetensors") == "torch_save" or read.on(WHOLE):
        return "", ""
    return "DTensor v2 saves safetensors in shards, for which NeMo RL has no converter", f"++{WHOLE}=true"


def hugging_face(checkpoint: Path) -> Path | None:
    """A checkpoint's weights in Hugging Face's format: exported, consolidated, or the folder itself."""
    there = (checkpoints.exported(checkpoint), checkpoint / CONSOLIDATED, checkpoint)
    return next((path for path in there if (path / "config.json").is_file()), None)


def fits(config: Config, origin: Origin, source: Config) -> None:
    """Refuse a source whose weights, or for a fork all of whose checkpoint, this run cannot take. Raises UserError."""
    if source and (source.get("engine") or {}).get("name", "nemo_rl") != "nemo_rl":
        raise UserError(
            f"{origin.key}={origin.typed}: a run of another engine",
            "NeMo RL reads none of its checkpoints",
            "another run",
        )
    if origin.key == FORK:
        _require_fork(config, origin, source)
        return
    if source:
        origins.require_same(config, source, origin, _MODEL, _OF_A_LOSS)
    if origin.is_open:
        _require_readable(config, origin, source)
    elif not _changes(config, origin):
        raise _no_weights(origin)


def _no_weights(origin: Origin) -> UserError:
    fix = f"nano-exp export {origin.run} --step {origin.step}, and then this again" if origin.run else "another folder"
    return UserError(
        f"{INIT}={origin.typed}: no Hugging Face weights of {origin.path}",
        "NeMo RL starts from such a folder (policy.model_name); Megatron from v0.7.0 on from its checkpoint too",
        fix,
    )


def _require_readable(config: Config, origin: Origin, source: Config) -> None:
    """Refuse a source that has not ended and whose checkpoints nothing will make weights of."""
    if is_megatron(source) and not has_lora(source) and _reads_megatron(config):
        return
    why, fix = not_exportable(source)
    if why:
        raise UserError(f"{INIT}={origin.typed}: its checkpoints cannot be exported", why, f"for that run: {fix}")


def initial(config: Config) -> dict[str, object]:
    """The keys by which NeMo RL starts from the weights. Its tokenizer stays the model's own.

    Raises
    ------
    UserError: they are not there any more; without them it would start from the model's own
    """
    origin = origins.of(config, INIT)
    if origin is None:
        return {}
    changes = _changes(config, origin)
    if not changes:
        raise _no_weights(origin)
    return changes


def readable(config: Config, origin: Origin) -> bool:
    """Whether the checkpoint is there in a form that the run can start from; else an export of it is."""
    return bool(_changes(config, origin))


def _reads_megatron(config: Config) -> bool:
    return is_megatron(config) and version(config) >= PRETRAINED_FROM and not has_lora(config)


def _changes(config: Config, origin: Origin) -> dict[str, object]:
    iteration = origin.path / ITERATION
    if _reads_megatron(config) and (iteration / "run_config.yaml").is_file():
        return {"policy.pretrained_checkpoint": {"path": str(iteration), "format": "megatron_bridge"}}
    folder = hugging_face(origin.path)
    return {} if folder is None else {"policy.model_name": str(folder)}


# --- forks ----------------------------------------------------------------------------------------------------------


def _require_fork(config: Config, origin: Origin, source: Config) -> None:
    origins.require_fork(config, source, origin)
    backend = "the optimizer's state is that backend's"
    origins.require_same(
        config, source, origin, dict.fromkeys(("policy.megatron_cfg.enabled", "policy.dtensor_cfg._v2"), backend)
    )
    if (source.get("checkpointing") or {}).get("save_optimizer") is False and version(source) >= (0, 6, 0):
        raise origins.no_optimizer(origin, "optimizer state")
    refuse = _refuse_megatron if is_megatron(config) else _refuse_dtensor
    refuse(config, source, origin)


def _refuse_dtensor(config: Config, source: Config, origin: Origin) -> None:
    """torch restores the optimizer's param_groups and the scheduler's base_lrs: the old values stay, without a word."""
    for section in ("policy.optimizer", "policy.scheduler"):
        for key, (old, new) in origins.differing(config, source, section).items():
            raise _keeps(origin, key, old, new, "DTensor restores it with the optimizer's state, without a word", "")


def _refuse_megatron(config: Config, source: Config, origin: Origin) -> None:
    """Megatron's scheduler compares its values with the checkpoint's, and stops; told to override, it takes its own."""
    scheduled = ("lr", "min_lr", "weight_decay", "start_weight_decay", "end_weight_decay")
    changed = {
        **origins.differing(config, source, "policy.megatron_cfg.optimizer"),
        **origins.differing(config, source, "policy.megatron_cfg.scheduler"),
        **origins.differing(config, source, "grpo.max_num_steps"),
    }
    changed.pop(OVERRIDE, None)
    overrides = Read(config).on(OVERRIDE)
    for key, (old, new) in changed.items():
        if ".optimizer." in key and key.rpartition(".")[2] not in scheduled:
            raise _keeps(origin, key, old, new, "Megatron restores it with the optimizer's state, without a word", "")
        if not overrides:
            fix = f"{OVERRIDE}=true too; "
            raise _keeps(origin, key, old, new, "Megatron's scheduler stops where the checkpoint's differs", fix)


def _keeps(origin: Origin, key: str, old: object, new: object, why: str, fix: str) -> UserError:
    return UserError(
        f"{FORK}={origin.typed}: {key} was {old}, and {new} is asked for",
        why,
        f"{fix}{INIT}={origin.typed}, which takes the weights alone and a new optimizer",
    )
