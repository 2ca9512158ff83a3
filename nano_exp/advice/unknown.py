"""An option that a group lacks, and a key that the config lacks, in words. Hydra is not needed here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nano_exp import files, project
from nano_exp.advice.suggestions import Adviser
from nano_exp.compose import CONF_DIR
from nano_exp.errors import UserError, nearest, short_for

#: Groups whose options are picked by others or hold pieces, not something to type.
_INNER_OPTIONS = ("default/", "v0_")


def shown(group: str, options: Sequence[str]) -> list[str]:
    """The options that are meant to be typed."""
    return [o for o in options if group == "nemo_rl" or not o.startswith(_INNER_OPTIONS)]


def option(group: str, choice: str, available: Sequence[str]) -> UserError:
    """For an option that a group lacks. `available`: those that it has."""
    setting = f"{group}={choice}"
    if group == "model" and (of_weights := _models().get(choice.lower())):
        why = f"model= takes a name of {CONF_DIR / 'model'}, and {choice} is the weights of {of_weights}"
        return UserError(setting, why, f"model={of_weights}")
    near = nearest(choice, available)
    short = short_for(choice, available, anywhere=True)
    near = near or ([short] if short else [])
    why = f"{group} has no option '{choice}'; it has: {', '.join(available) or 'none'}{_where()}"
    if group == "cluster" and (shape := re.fullmatch(r"(\d+)n(\d+)g", choice)):
        nodes, gpus = shape.groups()
        why += f"; a file {CONF_DIR / group / choice}.yaml with `num_nodes: {nodes}` and `gpus_per_node: {gpus}` is one"
    if near:
        return UserError(setting, why, " or ".join(f"{group}={name}" for name in near))
    if group == "site" and re.fullmatch(r"\w[\w-]*", choice):
        sites = CONF_DIR / "site"
        return UserError(
            setting,
            f"there is no {sites / choice}.yaml; the sites are: {', '.join(available)}{_where()}",
            f"nano-exp site init {choice}, which writes it from what your cluster shows",
        )
    if group == "model" and "/" in choice:
        why += "; other weights of one of these architectures are policy.model_name=..."
    return UserError(setting, why, f"one of these: {', '.join(f'{group}={name}' for name in available)}")


def _where() -> str:
    """Where options are looked for, but in a checkout, which has one conf/."""
    if project.IS_CHECKOUT and project.OWN is None:
        return ""
    return f" (in {CONF_DIR}" + (f", then {project.BASE / 'conf'})" if project.OWN is not None else ")")


def _models() -> dict[str, str]:
    """What a model is called on Hugging Face, in lower case, with and without its owner -> the option of conf/model."""
    model_options: dict[str, str] = {}
    for path in project.glob(CONF_DIR / "model", "*.yaml"):
        name = str((files.read_yaml(path).get("model") or {}).get("hf_id") or "").lower()
        model_options |= {name: path.stem, name.rpartition("/")[2]: path.stem} if name else {}
    return model_options


def key(adviser: Adviser, typed: str, value: str) -> UserError:
    """For a key that the config lacks, with its value as typed."""
    suggestion = adviser.instead(typed, value)
    above = typed.rpartition(".")[0]
    words = ["the config has no such key"]
    if above in adviser.keys and not isinstance(adviser.at(above), dict):
        words.append(f"and {above} is a value, which holds no keys")
    elif suggestion.refused:
        words.append(f"and {suggestion.refused}, which may be meant, does not take {value}")
    elif not suggestion.fix and (section_keys := adviser.there(typed)):
        words.append(section_keys)
    lookup = f"--cfg job --package {above}" if isinstance(adviser.at(above), dict) and above else "--cfg job"
    return UserError(
        f"{typed}={value}",
        "; ".join(words),
        suggestion.fix or f"leave it out (the command with {lookup} shows the keys)",
    )
