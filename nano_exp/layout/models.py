"""Which model a config trains, and what is known of it: the facts of the one that policy.model_name names.

The section `model` (conf/model) is a choice of its own: a typed policy.model_name leaves it as it is, and then its
facts are another model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from nano_exp import files, project
from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.layout import architecture, parameters
from nano_exp.nemo_rl.checkout import snapshot

FACTS = project.CONF / "model"


def named(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Facts of the model that policy.model_name names, with the keys of conf/model.

    They are the config's own where those are of this model; else conf/model's of the same name on the hub; else its
    own config.json's, where it is a folder of this host or lies in HF_HOME. Where nothing is known, its name alone.
    """
    settings = Config(config)
    chosen_model, name = settings.section("model").values, settings.text("policy.model_name")
    if settings.text("engine.name") == "embedded" or not name:
        return chosen_model
    if chosen_model.get("model_type") and same(name, str(chosen_model.get("hf_id") or "")):
        return chosen_model
    published = next((facts for hf_id, facts in _published().items() if same(name, hf_id)), None)
    if published is not None:
        return published
    return _on_disk(name, settings.text("site.hf_home")) or {"name": name, "hf_id": name}


def same(name: str, hf_id: str) -> bool:
    """Whether two names on the hub are of one architecture: a model and its base."""
    return name.replace("-Base", "") == hf_id.replace("-Base", "")


def unknown(facts: Mapping[str, Any]) -> str:
    """Why nothing can be computed from facts; "" where they have an architecture."""
    if facts.get("model_type"):
        return ""
    name = facts.get("hf_id") or facts.get("name")
    return f"nothing is known of {name}: no config.json of a kind that is planned for here, and no facts in conf/model"


@cache
def _published() -> dict[str, Mapping[str, Any]]:
    """conf/model's facts by their name on the hub."""
    models = (files.read_yaml(path).get("model") or {} for path in project.glob(FACTS, "*.yaml"))
    return {str(facts["hf_id"]): facts for facts in models if facts.get("hf_id")}


@cache
def _on_disk(name: str, hf_home: str) -> Mapping[str, Any] | None:
    """A config.json's facts; None where there is none, or its blocks are not planned for."""
    folder = snapshot(name, hf_home or None)
    if folder is None:
        return None
    try:
        values = files.read_json(folder / "config.json")
        parsed = architecture.parse(values, name, str(folder / "config.json"))
    except (OSError, files.Damaged, UserError, AttributeError):
        return None
    return {**values, "name": name, "hf_id": name, "total_parameters": parameters.total(parsed).total}
