"""From overrides to a ranked list of layouts with the published one marked: what `nano-exp plan` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader

from nano_exp.compose import resolving
from nano_exp.dotted import Config
from nano_exp.errors import UserError
from nano_exp.layout import architecture, layouts, rules, workload
from nano_exp.layout.case import Problem
from nano_exp.layout.layouts import Layout
from nano_exp.layout.workload import Job
from nano_exp.overrides import Override
from nano_exp.planner import auto, gpus, search
from nano_exp.planner.gpus import Constants, Gpu
from nano_exp.planner.search import Option
from nano_exp.text import as_typed

#: The recipe that --config starts from where no model= is given.
TEMPLATE = "model=nano_12b"


@dataclass(frozen=True)
class Proposal:
    """Layouts for a run.

    Parameters
    ----------
    title: how the run was named
    options: valid layouts, best first; the published and the typed one are among them
    published: the recipe's layout; None where it is not valid here, or where another model is planned for
    typed: the layout of the overrides as they are; None where it is not valid
    invalid: what the typed layout breaks, in words
    words: the overrides of the run without those that set its layout
    assumed: inputs that nobody gave, in words
    """

    title: str
    job: Job
    gpu: Gpu
    constants: Constants
    options: tuple[Option, ...]
    published: Option | None
    typed: Option | None
    invalid: tuple[str, ...]
    words: tuple[str, ...]
    assumed: tuple[str, ...]
    version: str

    def overrides(self, option: Option) -> dict[str, Any]:
        """What to type for an option, besides `words`: nothing for the published one."""
        if self.published is not None and option.layout == self.published.layout:
            return {}
        return layouts.overrides(option.layout)

    def relative(self, option: Option) -> float:
        """Its step time over the published layout's (the best one's, where there is none)."""
        base = self.published or self.options[0]
        return option.time.total / base.time.total if base.time.total else 1.0


def propose(
    config_loader: ConfigLoader,
    overrides: Sequence[str],
    *,
    gpu: str | None = None,
    mean_length: int | None = None,
    max_length: int | None = None,
    model: Path | None = None,
) -> Proposal:
    """Compose, read, search.

    Parameters
    ----------
    gpu: a name of gpus.yaml; default: the site's
    mean_length, max_length: planned lengths of whole sequences, tokens; max_length sets
        policy.max_total_sequence_length
    model: a Hugging Face config.json to plan for instead of the config's own model

    Raises
    ------
    UserError: the overrides do not compose; the model, GPU, lengths or cluster cannot be; no layout is valid
    """
    typed_words, assumed = list(overrides), []
    if max_length is not None:
        if max_length < 1:
            raise UserError(f"--max-length {max_length}", "a sequence has at least one token", "--max-length 8192")
        typed_words.append(f"policy.max_total_sequence_length={max_length}")
    planned_model = architecture.from_file(model) if model is not None else None
    if planned_model is not None and not any(is_key(word, "model") for word in typed_words):
        typed_words.insert(0, TEMPLATE)
        assumed.append(f"batch and generation are those of {TEMPLATE}")
    config = resolved(config_loader, typed_words)
    device = gpus.gpu(gpu) if gpu else gpus.of_site(config)
    if not gpu and not config["site"].get("gpu"):
        assumed.append(f"GPUs are {device.name} (--gpu)")
    job = workload.of_config(config, mean_length=mean_length, model=planned_model)
    if mean_length is None:
        assumed.append(f"sequences have {job.mean_length} tokens on average, half of the longest (--mean-length)")
    constants = gpus.constants(device.name)
    words = [word for word in typed_words if not sets_layout(word)]
    trained = [*words, *named(model, typed_words)] if model is not None else words
    recipe = job.layout
    if len(words) != len(typed_words):
        recipe = workload.of_config(resolved(config_loader, words), mean_length=mean_length, model=planned_model).layout
    options = list(search.every(job, device, constants))
    marked: list[Option | None] = []
    for layout in (recipe, job.layout):
        here = None
        if not broken(layout, job):
            here = next((one for one in options if one.layout == layout), None)
            if here is None:
                here = search.option(replace(job, layout=layout), device, constants)
                options.append(here)
        marked.append(here)
    invalid = tuple(_in_words(problem, config) for problem in broken(job.layout, job))
    if not options:
        raise UserError(
            f"{title(words)}: no layout is valid on {job.world} training GPUs",
            "; ".join(invalid),
            "a cluster and a batch that divide: cluster=1n8g or 2n8g, grpo.num_prompts_per_step x "
            "num_generations_per_prompt a multiple of the GPUs",
        )
    return Proposal(
        title=title(words)
        if planned_model is None
        else title([f"model={planned_model.name}", *(w for w in words if not is_key(w, "model"))]),
        job=job,
        gpu=device,
        constants=constants,
        options=tuple(sorted(options, key=search.rank)),
        published=marked[0] if planned_model is None else None,
        typed=marked[1],
        invalid=invalid,
        words=tuple(trained),
        assumed=tuple(assumed),
        version=str(config["nemo_rl"]["version"]),
    )


def _in_words(problem: Problem, config: Mapping[str, Any]) -> str:
    """What is wrong, with the values."""
    settings = ", ".join(f"{key}={as_typed(Config(config).get(key))}" for key in problem.keys)
    return f"{settings}: {problem.why}"


def broken(layout: Layout, job: Job) -> list[Problem]:
    """What a layout breaks for the job."""
    return rules.problems(layout, job.architecture, job.shape)


def resolved(config_loader: ConfigLoader, overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved config of a point."""
    return resolving.resolve(auto.compose_point(config_loader, list(overrides)).cfg)


def is_key(word: str, key: str) -> bool:
    """Whether an override sets exactly this key or group."""
    return Override.parse(word).key == key


def sets_layout(word: str) -> bool:
    """Whether an override is about the layout: `parallelism` or a key that a layout sets."""
    key = Override.parse(word).key
    return key == "parallelism" or key in layouts.KEYS


def named(model: Path, overrides: Sequence[str]) -> list[str]:
    """What makes a run train the model that was planned for (--config) and not the recipe's; nothing where it is typed.

    The folder where its weights lie beside its config.json, else words for the user to fill in.
    """
    if any(is_key(word, "policy.model_name") for word in overrides):
        return []
    folder = (model if model.is_dir() else model.parent).absolute()
    weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    return [f"policy.model_name={folder if weights else 'FOLDER_OR_NAME_OF_THIS_MODEL'}"]


def title(words: Sequence[str]) -> str:
    """`nano_12b on 2n8g`."""
    choices = {typed.key: typed.value for typed in map(Override.parse, words)}
    return " on ".join(choices[key] for key in ("model", "cluster") if key in choices) or "the default run"
