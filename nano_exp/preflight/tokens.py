"""Whether the hub's and W&B's tokens are there, and what that means for the runs. Their values are not looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nano_exp.store import trackers


def lines(configs: Sequence[Mapping[str, Any]], environ: Mapping[str, str], file_names: Collection[str]) -> list[str]:
    """A line for each token that a run of the engine nemo_rl, or W&B, would use.

    Parameters
    ----------
    environ: the environment that a launch from here hands on
    file_names: what env.yaml gives beside it
    """
    have = {**dict.fromkeys(file_names, "in env.yaml"), **{name: value for name, value in environ.items() if value}}
    tokens = []
    if any((config.get("engine") or {}).get("name") == "nemo_rl" for config in configs):
        private = "gated and private models and data can be fetched"
        public = "not set: the hub gives public models and data alone, at a lower rate"
        tokens.append(f"HF_TOKEN is {f'set: {private}' if have.get('HF_TOKEN') else public}")
    modes = list(dict.fromkeys(mode for config in configs if (mode := trackers.wandb_mode(config, have))))
    if modes:
        key = "set" if have.get("WANDB_API_KEY") else "not set"
        tokens.append(f"WANDB_API_KEY is {key}: {', '.join(_recorded(mode, environ) for mode in modes)}")
    return tokens


def _recorded(mode: str, environ: Mapping[str, str]) -> str:
    if mode == "online":
        return "runs log to W&B while they train"
    if mode != "offline":
        return f"W&B's mode is {mode}"
    where = trackers.wandb_key({name: value for name, value in environ.items() if name != "WANDB_API_KEY"})
    return "W&B is recorded offline, and nano-exp sync sends it" + (f" with the key in {where}" if where else " later")
