"""In which phase an attempt is, and how long each phase took: attempts/<n>/phase.json, and what runs learn of others.

The attempt's watchdog writes it when the phase changes, not at every step. What the phases of runs of one model, shape
and backend took is gathered in one small file, results/.cache/phases-<key>.json, which may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.files import Damaged
from nano_exp.store import runs

FILE = "phase.json"
#: Phase -> what it is called, in the order in which a run goes through them.
LABELS: dict[str, str] = {
    "environment": "preparing environments",
    "ray": "starting Ray",
    "data": "reading data",
    "vllm": "starting vLLM",
    "policy": "loading the model",
    "conversion": "converting the model for Megatron",
    "rollout": "first rollout",
    "step": "training",
    "validation": "validating",
    "save": "saving a checkpoint",
}
#: Those before the training loop, each once in an attempt, even where it is left and entered again.
SETUP = ("environment", "ray", "data", "vllm", "policy", "conversion")
#: So many durations of a phase are kept, the newest.
KEPT = 16


@dataclass(frozen=True)
class Now:
    """Where an attempt is.

    Parameters
    ----------
    phase: a key of LABELS
    since: unix time at which it was entered
    took: phase -> seconds that it took, the longest where there were several
    """

    phase: str
    since: float
    took: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return LABELS.get(self.phase, self.phase)


def read(attempt_dir: Path) -> Now | None:
    """None where the attempt has not said it, or its file is damaged."""
    try:
        return parse(files.read_json(attempt_dir / FILE))
    except (Damaged, OSError):
        return None


def parse(whole: Any) -> Now | None:
    """As it is written; None for anything else."""
    if not isinstance(whole, Mapping) or whole.get("phase") not in LABELS:
        return None
    since = runs.number(whole.get("since"))
    return None if since is None else Now(str(whole["phase"]), since, _durations(whole.get("took")))


def write(attempt_dir: Path, now: Now) -> None:
    """Raises UserError or OSError where nothing can be written."""
    took = {phase: round(seconds, 1) for phase, seconds in now.took.items()}
    files.write_json(attempt_dir / FILE, {"phase": now.phase, "since": round(now.since, 1), "took": took})


def _durations(whole: Any) -> dict[str, float]:
    found = {str(k): runs.number(v) for k, v in whole.items()} if isinstance(whole, Mapping) else {}
    return {phase: seconds for phase, seconds in found.items() if phase in LABELS and seconds is not None}


# --- what runs learn of each other ----------------------------------------------------------------------------------


def longest(run_dir: Path, config: Mapping[str, Any]) -> dict[str, float]:
    """Phase -> the longest that it took, seconds: in this run's earlier attempts, and in runs like it."""
    found: dict[str, float] = {}
    for attempt in runs.attempts(run_dir):
        now = read(attempt.dir)
        for phase, seconds in now.took.items() if now else ():
            found[phase] = max(found.get(phase, 0.0), seconds)
    for phase, several in _known(_shared(run_dir, config)).items():
        found[phase] = max([found.get(phase, 0.0), *several])
    return found


def learn(run_dir: Path, config: Mapping[str, Any], took: Mapping[str, float]) -> None:
    """Add what an attempt's phases took, for runs like it. Two that write at once may lose one's: that does no harm."""
    if not took:
        return
    path = _shared(run_dir, config)
    known = _known(path)
    for phase, seconds in took.items():
        known[phase] = [*known.get(phase, []), round(seconds, 1)][-KEPT:]
    with contextlib.suppress(OSError, files.UserError):
        path.parent.mkdir(exist_ok=True)
        files.write_json(path, {"like": _like(config), "took": known})


def _known(path: Path) -> dict[str, list[float]]:
    try:
        whole = files.read_json(path)["took"]
        return {
            phase: [s for value in whole[phase] if (s := runs.number(value)) is not None]
            for phase in LABELS
            if isinstance(whole.get(phase), list)
        }
    except (Damaged, OSError, KeyError, TypeError, AttributeError):
        return {}


def _like(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the durations of phases depend on, roughly."""
    cluster, policy = config.get("cluster") or {}, config.get("policy") or {}
    generation = policy.get("generation") or {}
    return {
        "engine": (config.get("engine") or {}).get("name"),
        "nemo_rl": (config.get("nemo_rl") or {}).get("version"),
        "model": policy.get("model_name"),
        "shape": [cluster.get("num_nodes"), cluster.get("gpus_per_node")],
        "megatron": bool((policy.get("megatron_cfg") or {}).get("enabled")),
        "generation": generation.get("backend"),
    }


def _shared(run_dir: Path, config: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(_like(config), sort_keys=True, default=str).encode()).hexdigest()[:10]
    return run_dir.parent.parent / ".cache" / f"phases-{digest}.json"
