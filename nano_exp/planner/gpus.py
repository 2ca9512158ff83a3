"""GPUs by name, and the constants that were assumed for all or measured on one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.dotted import Config
from nano_exp.errors import UserError, choice, nearest
from nano_exp.planner.ranges import GIB, Range

HERE = Path(__file__).resolve().parent
CALIBRATION = HERE / "calibration"
#: What is planned for where nobody says: the GPU of NVIDIA's recipes.
DEFAULT = "h100-80"


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU; units are in gpus.yaml. `smi`: a word of the name that nvidia-smi prints."""

    name: str
    gib: float
    tflops: float
    hbm: float
    link: float
    nvlink: float
    smi: str

    @property
    def bytes(self) -> float:
        return self.gib * GIB


@dataclass(frozen=True)
class Constants:
    """The constants of constants.yaml, each [low, expected, high]."""

    context_gib: Range
    nccl_gib: Range
    vllm_asleep_gib: Range
    vllm_beyond_gib: Range
    vllm_overhead_gib: Range
    activation_scale: Range
    transient_blocks: Range
    expert_imbalance: Range
    logit_bytes_megatron: Range
    logit_bytes_fsdp2: Range
    logit_bytes_pass: Range
    logit_bytes_chunk: Range
    foreach_bytes: Range
    expert_copy_bytes: Range
    fragments: Range
    fragments_logits: Range
    fragments_root: Range


NAMES = tuple(field.name for field in fields(Constants))


@cache
def gpus() -> dict[str, Gpu]:
    """Every GPU of gpus.yaml."""
    return {name: Gpu(name, **values) for name, values in files.read_yaml(HERE / "gpus.yaml").items()}


def gpu(name: str) -> Gpu:
    """The GPU of this name, or of this type where there is one of it. Raises UserError where there is none."""
    word = name.lower()
    device = gpus().get(word) or of_type(word, only=True)
    if device is None:
        near = nearest(word, gpus())
        raise UserError(
            f"GPU {name!r}",
            f"its memory is not known; known are {', '.join(gpus())}",
            f"{choice('--gpu ', near, gpus())} (site.gpu=... for good), or add it to nano_exp/planner/gpus.yaml",
        )
    return device


def of_type(word: str, only: bool = False) -> Gpu | None:
    """The GPU of a type as Slurm's gres names it (`h100`); of several sizes the largest, or with `only` none."""
    fitting = [one for name, one in gpus().items() if name.partition("-")[0] == word.lower()]
    return None if not fitting or (only and len(fitting) > 1) else max(fitting, key=lambda one: one.gib)


def of_site(config: Mapping[str, Any]) -> Gpu:
    """site.gpu, or the GPU that published recipes are for. Raises UserError where it is not known."""
    return gpu(Config(config).text("site.gpu", DEFAULT))


def of_smi(printed: str, mib: float) -> Gpu | None:
    """The GPU that nvidia-smi calls `printed`, with `mib` MiB in all; None for one that is not known."""
    words = printed.replace("-", " ").split()
    fitting = [one for one in gpus().values() if one.smi in words]
    return min(fitting, key=lambda one: abs(one.gib - mib / 1024)) if fitting else None


@cache
def assumed() -> Constants:
    """The constants of constants.yaml, as assumed for any GPU."""
    return Constants(
        **{key: Range(*map(float, value)) for key, value in files.read_yaml(HERE / "constants.yaml").items()}
    )


@cache
def constants(name: str) -> Constants:
    """The constants for a GPU: calibrated ones where its file has them.

    Raises
    ------
    UserError: the calibration file is damaged
    """
    values = dict(vars(assumed()))
    for key, value in (calibration(name) or {}).get("constants", {}).items():
        try:
            constant = Range(*map(float, value))
            good = key in NAMES and 0 <= constant.low <= constant.expected <= constant.high
        except (TypeError, ValueError):
            good = False
        if not good:
            raise _damaged(name, f"{key}: {value!r}")
        values[key] = constant
    return Constants(**values)


def calibration(name: str) -> dict[str, Any] | None:
    """What `nano-exp plan --calibrate` wrote for a GPU; None where it was not run."""
    path = CALIBRATION / f"{name}.yaml"
    try:
        record = files.read_yaml(path)
    except FileNotFoundError:
        return None
    except files.Damaged as error:
        raise _damaged(name, str(error)) from error
    if not isinstance(record, dict) or not isinstance(record.get("constants"), dict):
        raise _damaged(name, "it has no section `constants`")
    return record


def _damaged(name: str, what: str) -> UserError:
    path = CALIBRATION / f"{name}.yaml"
    return UserError(
        f"{path}: {what}",
        "a calibration is [low, expected, high] for constants of constants.yaml",
        f"nano-exp plan --calibrate results/ writes it again; or remove it: rm {path}",
    )
