"""A checkpoint as Hugging Face weights: export/step_N beside the checkpoints, made once, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from nano_exp import files
from nano_exp.after import card, making
from nano_exp.after.making import Chosen
from nano_exp.credentials import redact
from nano_exp.engines import checkpoints
from nano_exp.errors import UserError
from nano_exp.nemo_rl import model_files
from nano_exp.store import runs
from nano_exp.text import Say

FACTS = "nano_exp.json"


def folder(chosen: Chosen) -> Path:
    return checkpoints.exported(chosen.path)


def export(chosen: Chosen, say: Say) -> Path:
    """Make the weights, where they are not there yet. Returns their folder. Raises UserError."""
    target = folder(chosen)
    with making.alone(target.parent):
        if (target / FACTS).is_file():
            say(f"{target} is there already")
            return target
        with making.aside(target) as path:
            command = chosen.engine.export(chosen.config, chosen.path, path)
            lines = making.execute(command, target.parent / f"{target.name}.log", say)
            missing = model_files.lacking(path)
            if missing:
                raise UserError(
                    f"{path}: no whole {', '.join(missing[:3])}",
                    "the converter ended well all the same",
                    "look at its log",
                    1,
                )
            (path / "README.md").write_text(card.text(chosen))
            facts = {"run": chosen.run.id, "name": chosen.run.name, "step": chosen.step}
            files.write_json(path / FACTS, {**facts, "argv": command.argv})
    runs.record_event(chosen.run.dir, "note", text=f"exported step {chosen.step}: {target}")
    if lines:
        say(lines[-1])
    say(f"exported step {chosen.step}: {target}")
    return target


def upload(target: Path, repository: str, say: Say) -> None:
    """Send an exported folder to a repository of the Hugging Face hub, private where it is new. Raises UserError."""
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise UserError(
            f"--upload {repository} and no HF_TOKEN",
            "the hub takes files of those it knows",
            "export HF_TOKEN=..., or env.yaml",
        )
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError(
            f"--upload {repository} and no huggingface_hub", "it sends the files", "pip install huggingface_hub"
        ) from error
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        sent = api.upload_folder(repo_id=repository, folder_path=target, commit_message=f"{target.parent.parent.name}")
    except Exception as error:  # the hub's words and those of its HTTP client have no class in common
        first = redact((str(error).strip() or type(error).__name__).splitlines()[0])
        is_unknown = getattr(getattr(error, "response", None), "status_code", None) == 401
        mine = "a repository of yours, USER/NAME, from a host with a network"
        fix = "export HF_TOKEN=<a valid one that may write>" if is_unknown else mine
        raise UserError(
            f"--upload {repository}: {first}",
            "the hub did not take it",
            fix,
        ) from error
    say(f"uploaded: {sent}")
