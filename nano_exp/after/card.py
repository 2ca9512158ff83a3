"""The model card of exported weights: which run, commit and config they are of, and what it measured."""

from __future__ import annotations

from typing import Any

from nano_exp import files
from nano_exp.after.making import Chosen
from nano_exp.engines import origin as origins
from nano_exp.files import Damaged
from nano_exp.store import metrics_file, runs

#: Of the last row that has it.
METRICS = ("train/reward", "validation/accuracy", "train/loss", "train/kl_penalty", "train/grad_norm")


def text(chosen: Chosen) -> str:
    """README.md, with the front matter that the hub reads."""
    run, config = chosen.run, chosen.config
    base = str((config.get("model") or {}).get("hf_id") or "")
    head: dict[str, Any] = {"library_name": "transformers", "tags": ["grpo", "nano-exp", run.name]}
    if base:
        head["base_model"] = base
    origin = origins.started(config, run)
    facts = {
        "run": f"{run.name}/{run.id}, step {chosen.step}",
        "model": (config.get("model") or {}).get("name"),
        "engine": f"{config['engine']['name']}, NeMo RL {config['nemo_rl']['version']}'s keys",
        "checkout of NeMo RL": run.record.get("checkout_commit"),
        "commit of nano-exp": _commit(run),
        "started from": origin.typed if origin else None,
        "overrides": " ".join(f"`{word}`" for word in run.overrides) or "none",
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value)
    measured = "\n".join(f"| {name} | {value:.4g} | {step} |" for name, (step, value) in metrics(chosen).items())
    return (
        f"---\n{files.dump_yaml(head)}---\n\n# {run.name} {run.id}\n\nTrained with GRPO by nano-exp.\n\n"
        f"| | |\n|---|---|\n{rows}\n\n## Metrics\n\nThe last of each up to step {chosen.step}.\n\n"
        f"| metric | value | step |\n|---|---|---|\n{measured}\n\n## Config\n\n"
        f"```yaml\n{files.dump_yaml(_trained(config))}```\n"
    )


def metrics(chosen: Chosen) -> dict[str, tuple[int, float]]:
    """Name -> step and value of the last row up to the checkpoint that has it."""
    last: dict[str, tuple[int, float]] = {}
    for row in metrics_file.read(chosen.run.dir):
        for name in METRICS:
            value = runs.number(row.get(name))
            if value is not None and row["step"] <= chosen.step:
                last[name] = (row["step"], value)
    return last


def _trained(config: dict[str, Any]) -> dict[str, Any]:
    """What was computed: without places, which name folders and users of a cluster."""
    sections = ("grpo", "loss_fn", "policy", "data", "optimizer", "engine")
    return {name: config[name] for name in sections if name in config}


def _commit(run: runs.Run) -> str | None:
    try:
        facts = files.read_json(runs.launch_dir(run.results, str(run.record.get("launch"))) / "git.json")
    except (Damaged, OSError):
        return None
    return f"{facts.get('commit')}{' with changes' if facts.get('dirty') else ''}" if facts.get("commit") else None
