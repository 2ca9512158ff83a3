"""What W&B refuses of a run's names, tags and settings when it starts, on the node.

logger.wandb is passed whole to wandb.init (utils/logger.py). The launch path does not import wandb: its rules are
copied here (wandb 0.31.0, sdk/wandb_settings.py; tests/preflight/test_preflight_wandb.py compares), with what its
service refuses and the client does not look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nano_exp.errors import nearest
from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View

CFG = "logger.wandb"
#: wandb.init's parameters, but for `config` and `dir`, which the engine gives, and `settings`, which is not plain data.
PARAMETERS = (
    *("entity", "project", "id", "name", "notes", "tags", "config_exclude_keys", "config_include_keys", "group"),
    *("allow_val_change", "job_type", "mode", "force", "reinit", "resume", "resume_from", "fork_from", "save_code"),
    *("tensorboard", "sync_tensorboard", "monitor_gym", "anonymous"),
)
PROJECT_CHARACTERS, ID_CHARACTERS = "/\\#?%:", ":;,#?/'"
#: Characters of a project and a run's id at most, and of the other names, which only the service looks at.
LONGEST_NAME, LONGEST_TAG = 128, 64
MODES, RESUMES = ("online", "offline", "disabled", "shared"), ("allow", "must", "never", "auto")


def _reads(c: View) -> bool:
    return c.on("logger.wandb_enabled")


@rule(engine=ANY_ENGINE)
def wandb_names(c: View) -> Iterator[Mistake]:
    """W&B takes the project, the id and the other names: their length and characters."""
    if not _reads(c):
        return
    for name, refused in (
        ("project", PROJECT_CHARACTERS),
        ("id", ID_CHARACTERS),
        *((name, "") for name in ("entity", "group", "name", "job_type")),
    ):
        key = f"{CFG}.{name}"
        value = c.get(key)
        if not isinstance(value, str):
            continue  # null, or of another type, which value_type says
        bad = sorted(set(value) & set(refused))
        if bad:
            shorter = "".join("-" if character in bad else character for character in value)
            yield Mistake(
                (key,),
                f"W&B refuses the characters {' '.join(refused)} in it when the run starts",
                f"{key}={shorter.strip('-')[:LONGEST_NAME] or 'nano-exp'}",
            )
        elif len(value) > LONGEST_NAME:
            yield Mistake(
                (key,),
                f"it has {len(value)} characters, and W&B takes {LONGEST_NAME} at most",
                f"{key}={value[:LONGEST_NAME]}",
            )


@rule(engine=ANY_ENGINE)
def wandb_tags(c: View) -> Iterator[Mistake]:
    """Tags are a list of texts with 1 to 64 characters each."""
    if not _reads(c):
        return
    for key, value in (("run.tags", c.launcher("run").get("tags")), (f"{CFG}.tags", c.get(f"{CFG}.tags"))):
        if value is None:
            continue
        if not isinstance(value, list):
            yield Mistake(
                (),
                "tags are a list: each letter of a text would become a tag",
                f"'{key}=[{value}]'",
                f"{key}={value}",
            )
            continue
        for tag in value:
            if not 1 <= len(str(tag)) <= LONGEST_TAG:
                yield Mistake(
                    (),
                    f"W&B takes 1 to {LONGEST_TAG} characters in a tag and stops the run at its start for others",
                    f"'{key}=[{_in_words([str(tag)[:LONGEST_TAG] for tag in value if str(tag)])}]'",
                    f"{key} has a tag of {len(str(tag))} characters" + (f": {str(tag)[:20]}..." if tag else ""),
                )


def _in_words(words: Sequence[str]) -> str:
    return ",".join(words)


@rule(engine=ANY_ENGINE)
def wandb_settings(c: View) -> Iterator[Mistake]:
    """What else stands in logger.wandb is a parameter of wandb.init, with a value that it knows."""
    if not _reads(c):
        return
    for name, value in c.section(CFG).items():
        key = f"{CFG}.{name}"
        if name not in PARAMETERS:
            near = nearest(str(name), PARAMETERS, n=1)
            yield Mistake(
                (key,) if c.has(key) else (),
                "logger.wandb is passed whole to wandb.init, which has no such parameter: the run stops at its start",
                f"{CFG}.{near[0]}=... (the nearest that it has), or leave {key} out" if near else f"leave {key} out",
                "" if key in c.leaves else f"{key}=...",
            )
        elif (known := {"mode": MODES, "resume": RESUMES}.get(str(name))) and not _one_of(value, known):
            yield Mistake(
                (key,), f"W&B knows {', '.join(known)}", f"{key}={(nearest(str(value), known, n=1) or known)[0]}"
            )


def _one_of(value: Any, known: Sequence[str]) -> bool:
    return value is None or isinstance(value, bool) or value in known
