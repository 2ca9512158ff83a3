"""Tool calls with NeMo Gym: the parser, the template, and the files that Gym is pointed to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nano_exp.engines import entry
from nano_exp.nemo_rl.checkout import PARSER_NAME, PARSER_PATTERN
from nano_exp.preflight.facts import ModelFiles
from nano_exp.preflight.finding import Severity
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View

CHAT = "policy.generation.vllm_cfg.http_server_serving_chat_kwargs"
PLUGIN = "policy.generation.vllm_cfg.tool_parser_plugin"
THINKING = "env.nemo_gym.policy_model.responses_api_models.vllm_model.extra_body.chat_template_kwargs.enable_thinking"
DATA = (
    *("data.train.data_path", "data.validation.data_path"),
    *("data.train_jsonl_fpath", "data.validation_jsonl_fpath"),
)
GYM = "3rdparty/Gym-workspace/Gym"


def _files(c: View) -> ModelFiles | None:
    """The model's files on this host; None where a container has its own idea of paths."""
    hf_home = c.site.get("hf_home")
    return c.facts.model_files(str(c.get("policy.model_name")), str(hf_home) if hf_home else None)


@rule()
def tool_parser_on(c: View) -> Iterator[Mistake]:
    """vLLM is told to read tool calls, and by which parser."""
    parser = c.model.get("tool_parser") or {}
    if not c.gym or not c.vllm or not parser:
        return
    if not c.on(f"{CHAT}.enable_auto_tools"):
        yield Mistake(
            (f"{CHAT}.enable_auto_tools",) if c.has(f"{CHAT}.enable_auto_tools") else (),
            "tool calls stay text that no agent acts on, and rewards stay at zero",
            f"++{CHAT}.enable_auto_tools=true",
            "" if c.has(f"{CHAT}.enable_auto_tools") else f"{CHAT}.enable_auto_tools is not set",
        )
    name = c.get(f"{CHAT}.tool_parser")
    if not name:
        yield Mistake(
            (),
            "vLLM does not know how this model writes its tool calls",
            f"++{CHAT}.tool_parser={parser.get('name')}",
            f"{CHAT}.tool_parser is not set",
        )
    elif parser.get("name") and name != parser["name"]:
        yield Mistake(
            (f"{CHAT}.tool_parser",),
            f"{c.model.get('name')} writes its tool calls for {parser['name']}",
            f"{CHAT}.tool_parser={parser['name']}",
            severity="warning",
        )


@rule(place=True, severity="warning")
def model_there(c: View) -> Iterator[Mistake]:
    """The model's weights, all of them, are where the nodes look for them, or the nodes can download them.

    Of the hub's, an error where site.network is false; nothing is said where it is true and nothing is there yet.
    """
    name, home = str(c.get("policy.model_name") or ""), c.site.get("hf_home")
    network = c.site.get("network")
    files = _files(c) if name else None
    if files is None:
        return
    if name.startswith(("/", ".", "~")):
        yield from _folder_there(c, name, files)
        return
    severity: Severity = "error" if network is False else "warning"
    if home and not c.facts.is_dir(str(home)):
        if network is not True:
            yield Mistake(
                (),
                "there is no such folder on this host: models, data sets and conversions are looked for in it",
                f"mkdir -p {home}, on a file system that every node sees; or site.hf_home=/where/it/is",
                f"site.hf_home={home}",
                severity=severity,
            )
        return
    if (files.folder is None and network is True) or not (files.folder is None or files.lacking):
        return
    where = home or "HF_HOME"
    missing = f"its weights are not in {where}" if files.folder is None else _lacks(files)
    yield Mistake(
        ("policy.model_name",),
        f"{missing} on this host"
        + (", and this site's nodes have no network" if network is False else ": every node would download them"),
        f"{c.prepare}, which downloads it to {where}; site.network says whether nodes reach a network",
        severity=severity,
    )


def _folder_there(c: View, name: str, files: ModelFiles) -> Iterator[Mistake]:
    """A model that is named by its folder; one that is not here may be a container's."""
    if files.folder is None and (_contained(c) or name.startswith(".")):  # relative to the checkout
        return
    if files.folder is None or files.lacking:
        yield Mistake(
            ("policy.model_name",),
            "there is no such folder on this host" if files.folder is None else f"{_lacks(files)}: it cannot be loaded",
            "policy.model_name=/path/to/a/whole/model, or its name on the hub",
            severity="warning" if files.folder is None else "error",  # the nodes may see more than this host
        )


def _lacks(files: ModelFiles) -> str:
    """What a model's folder lacks, in words."""
    names = files.lacking
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    are = "is" if len(names) == 1 else "are"
    return f"{', '.join(names[:2])}{more} of {files.folder} {are} not there, or not whole"


@rule(place=True)
def tool_parser_file(c: View) -> Iterator[Mistake]:
    """The parser's file is where vLLM will look for it."""
    if not c.gym or not c.vllm or c.get(f"{CHAT}.tool_parser") != PARSER_NAME:
        return
    plugin = c.get(PLUGIN)
    if plugin:
        if not _contained(c) and not c.facts.is_file(str(plugin)):
            yield Mistake(
                (PLUGIN,),
                "there is no such file on this host",
                f"{PLUGIN}=/path/to/parser.py, or null for the one in the model's snapshot",
            )
        return
    files = _files(c)
    model = c.get("policy.model_name")
    if files is None or files.folder is None:
        yield Mistake(
            ("policy.model_name",),
            f"vLLM has the parser {PARSER_NAME} from a file of the model's snapshot, and the snapshot is not in "
            f"{c.site.get('hf_home') or 'HF_HOME'} on this host",
            f"{c.prepare}, which downloads the model; or site.hf_home=/where/it/is",
        )
    elif not files.parsers:
        yield Mistake(
            ("policy.model_name",),
            f"vLLM has the parser {PARSER_NAME} from a file of the model, and {files.folder} has no {PARSER_PATTERN}",
            f"download {model} with all its files, or ++{PLUGIN}=/path/to/parser.py",
        )


def _contained(c: View) -> bool:
    return str(c.site.get("entry") or "bare") in entry.ENTRIES[1:]


#: A template that an argument can turn: it reads the name by itself, not only as a field of its own.
READS_ARGUMENT = re.compile(r"(?<![\w.])enable_thinking\b(?!\s*=[^=])")
#: What the `sed` of NeMo Gym's guide leaves behind.
EDITED = re.compile(r"enable_thinking\s*=\s*false", re.IGNORECASE)


@rule(severity="warning")
def thinking_off(c: View) -> Iterator[Mistake]:
    """Nano v2 calls tools without thinking: by the template's argument, or by a template edited so."""
    if not c.gym or (c.model.get("tool_parser") or {}).get("name") != PARSER_NAME:
        return
    files = _files(c)
    template = files.template if files is not None else None
    if template is not None and EDITED.search(template):
        return
    if c.get(THINKING) is not False:
        yield Mistake(
            (THINKING,) if c.has(THINKING) else (),
            "the model thinks before each call: rollouts grow to the length limit and are cut before they call",
            f"++{THINKING}=false",
            "" if c.has(THINKING) else f"{THINKING} is not set",
        )
    elif template is not None and not READS_ARGUMENT.search(template):
        yield Mistake(
            (THINKING,),
            f"the chat template in {files.folder if files else 'the snapshot'} does not read that argument: the model "
            "thinks before each call",
            "/no_think in the data's system messages, or the template edited as NeMo Gym's guide says "
            "(enable_thinking=true to false)",
        )


@rule(place=True)
def gym_paths(c: View) -> Iterator[Mistake]:
    """The configs that NeMo Gym is pointed to are in the checkout."""
    checkout, paths = c.site.get("checkout"), c.get("env.nemo_gym.config_paths")
    if not c.gym or not checkout or not isinstance(paths, list) or not c.facts.is_dir(str(checkout)):
        return
    gym = Path(str(checkout)) / GYM
    if not c.facts.is_dir(str(gym)):
        yield Mistake(
            (),
            "NeMo Gym is a submodule, and this checkout does not have it",
            f"git -C {checkout} submodule update --init --recursive",
            f"no {GYM} in site.checkout={checkout}",
        )
        return
    for path in paths:
        if not any(c.facts.is_file(str(base / str(path))) for base in (gym, Path(str(checkout)))):
            yield Mistake(
                (),
                f"there is no such file in {gym}",
                "env.nemo_gym.config_paths=[...] with paths of NeMo Gym's checkout",
                f"env.nemo_gym.config_paths has {path}",
            )


@rule(place=True)
def data_files(c: View) -> Iterator[Mistake]:
    """Data sets that are named by a file are there."""
    checkout = c.site.get("checkout")
    if not checkout or _contained(c) or not c.facts.is_dir(str(checkout)):
        return
    for key in DATA:
        path = c.get(key)
        if isinstance(path, str) and path and not c.facts.is_file(str(Path(str(checkout)) / path)):
            yield Mistake(
                (key,),
                f"there is no such file (relative paths are taken from {checkout})",
                f"{c.prepare}, which makes NeMo Gym's own; or {key}=/path/to/data.jsonl",
            )
