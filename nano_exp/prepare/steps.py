"""The steps of a launch: those of each of its points, equal ones once, in the order in which they are made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.nemo_rl import caches
from nano_exp.nemo_rl.checkout import PARSER_NAME
from nano_exp.preflight import tools
from nano_exp.prepare import conversion, sources
from nano_exp.prepare.conversion import Conversion
from nano_exp.prepare.data_sets import OF_THE_HUB, HubData, Rows, UnknownData
from nano_exp.prepare.download import Model, Parser, Thinking
from nano_exp.prepare.environments import Driver, Workers
from nano_exp.prepare.image import Image
from nano_exp.prepare.sources import Checkout
from nano_exp.prepare.step import Place, Step
from nano_exp.slurm import shapes

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """What was typed beside the launch's words.

    Parameters
    ----------
    revision: of the model
    release: of NeMo RL, which is cloned
    url: where it is cloned from
    overrides: the launch's words
    """

    revision: str = ""
    release: str = ""
    url: str = sources.URL
    overrides: tuple[str, ...] = ()


def of(configs: Sequence[Config], environ: Mapping[str, str], wanted: Wanted) -> list[Step]:
    """What these configs need."""
    return list(dict.fromkeys(step for config in configs for step in _steps(config, environ, wanted)))


def _steps(config: Config, environ: Mapping[str, str], wanted: Wanted) -> Iterator[Step]:
    if (config.get("engine") or {}).get("name") != "nemo_rl":
        return
    place = Place.of(config, environ)
    site = config.get("site") or {}
    if place.contained:
        image = str((site.get("container") or {}).get("image") or "")
        yield Image(place, image, site.get("entry") == "apptainer")
    if not place.contained or site.get("checkout"):
        yield Checkout(place, wanted.release, wanted.url)
    shared = caches.of(config, environ)
    environments = next((cache for cache in shared if isinstance(cache, caches.Environments)), None)
    if not place.contained:
        yield Driver(place, str(site.get("python") or ""))
        if environments is not None:
            yield Workers(place, environments)
    yield from _of_the_model(config, place, wanted)
    yield from _of_the_data(config, place)
    for cache in shared:
        if isinstance(cache, caches.Conversion):
            yield _conversion(config, place, cache, environments, wanted)


def _conversion(
    config: Config,
    place: Place,
    cache: caches.Conversion,
    environments: caches.Environments | None,
    wanted: Wanted,
) -> Conversion:
    policy, gpus = config["policy"], int(config["cluster"]["gpus_per_node"])
    program = str(Path(sys.argv[0]).absolute()) if Path(sys.argv[0]).name == "nano-exp" else "nano-exp"
    return Conversion(
        place,
        cache,
        str(policy["model_name"]),
        conversion.layout(policy["megatron_cfg"], gpus),
        json.dumps(policy.get("hf_config_overrides") or {}, sort_keys=True),
        gpus,
        environments.folder if environments is not None else None,
        (program, "prepare", *wanted.overrides, "--only", "conversion"),
        tuple(_sbatch_options(config, gpus)),
    )


def _sbatch_options(config: Config, gpus: int) -> Iterator[str]:
    site = config.get("site") or {}
    yield from ("--job-name=nano-exp-prepare", "--nodes=1", "--time=60", f"--chdir={Path.cwd()}")
    yield from (f"--{key}={site[key]}" for key in ("partition", "account", "qos") if site.get(key))
    if site.get("gres") != "none":
        yield f"--gres={site['gres']}:{gpus}" if site.get("gres") else f"--gpus-per-node={gpus}"
    if shapes.whole_nodes(site.get("allocation"), "nemo_rl"):
        yield from ("--exclusive", "--mem=0")


def _of_the_data(config: Config, place: Place) -> Iterator[Step]:
    data, grpo = config.get("data") or {}, config.get("grpo") or {}
    paths = tuple((key, str(path)) for key in tools.DATA if (path := _at(config, key)))
    if paths:
        gym = bool((config.get("env") or {}).get("should_use_nemo_gym"))
        steps = int(grpo.get("max_num_steps") or 0)
        prompts, epochs = int(grpo.get("num_prompts_per_step") or 0), int(grpo.get("max_num_epochs") or 1)
        yield Rows(place, paths, gym, steps, prompts, epochs)
        return
    name = _at(data, "train.dataset_name") or data.get("dataset_name") or _at(data, "default.dataset_name")
    if name in OF_THE_HUB:
        repository, split = OF_THE_HUB[str(name)]
        yield HubData(place, repository, str(_at(data, "train.split") or split))
    elif name:
        yield UnknownData(place, str(name))


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
