"""The steps of a launch: those of each of its points, equal ones once, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nano_exp.nemo_rl.checkout import PARSER_NAME
from nano_exp.preflight import tools
from nano_exp.prepare.download import Model, Parser, Thinking
from nano_exp.prepare.step import Place, Step

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What was typed beside the launch's words.

    Parameters
    ----------
    revision: of the model
    """

    revision: str = ""


def of(configs: Sequence[Config], environ: Mapping[str, str], wanted: Wanted) -> list[Step]:
    """What these configs need."""
    return list(dict.fromkeys(step for config in configs for step in _steps(config, environ, wanted)))


def _steps(config: Config, environ: Mapping[str, str], wanted: Wanted) -> Iterator[Step]:
    if (config.get("engine") or {}).get("name") != "nemo_rl":
        return
    place = Place.of(config, environ)
    yield from _of_the_model(config, place, wanted)


def _of_the_model(config: Config, place: Place, wanted: Wanted) -> Iterator[Step]:
    policy = config.get("policy") or {}
    model = Model(place, str(policy.get("model_name") or ""), wanted.revision)
    yield model
    if not (config.get("env") or {}).get("should_use_nemo_gym"):
        return
    vllm = (policy.get("generation") or {}).get("vllm_cfg") or {}
    if (vllm.get("http_server_serving_chat_kwargs") or {}).get("tool_parser") == PARSER_NAME:
        yield Parser(place, model, str(vllm.get("tool_parser_plugin") or ""))
    if ((config.get("model") or {}).get("tool_parser") or {}).get("name") == PARSER_NAME:
        off = _at(config, tools.THINKING) is False
        yield Thinking(place, model, off, tools.READS_ARGUMENT.search, tools.EDITED.search)


def _at(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
