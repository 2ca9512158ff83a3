"""What lies on disk for the engine `nemo_rl`: a checkout's version and commit, and a model's tool-call parser."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError
from nano_exp.nemo_rl import versions

# As published in nvidia/NVIDIA-Nemotron-Nano-9B-v2, which also has one that streams; NeMo Gym does not stream.
PARSER_FILE = "nemotron_toolcall_parser_no_streaming.py"
PARSER_PATTERN = "nemotron_toolcall_parser*.py"
# vLLM knows parsers of other names itself (qwen3_coder, ...); the one that Nano v2's file registers is nemotron_json.
PARSER_NAME = "nemotron_json"


@dataclass(frozen=True)
class Checkout:
    """What a checkout says of itself; None where it cannot be read (an installed copy, a shallow export)."""

    version: str | None
    commit: str | None


def read_checkout(checkout: Path) -> Checkout:
    """Version from nemo_rl/package_info.py (or a static one in pyproject.toml), commit from .git.

    Files are read and git is not run: git refuses a checkout that belongs to somebody else.
    """
    return Checkout(_version(checkout), _commit(checkout))


def refuse_other_version(checkout: Path, wanted: str) -> None:
    """Raise UserError when the checkout is of another version than `wanted`; one that says none passes.

    Parameters
    ----------
    wanted: "v0.7.0", or "v0.6.0+<commit>" for a branch that was imported: its commit has to be the checkout's
    """
    installed = read_checkout(checkout)
    version, _, commit = wanted.removeprefix("v").partition("+")
    same = not installed.version or not version or installed.version == version
    if same and not (commit and installed.commit and not installed.commit.startswith(commit)):
        return
    release = f"NeMo RL {installed.version}" + (f" at {installed.commit[:12]}" if commit and installed.commit else "")
    known = _option_of(installed)
    branch = " --as main" if f"v{installed.version}" in map(versions.version_of, versions.options()) else ""
    make = f"nano-exp recipes import {checkout}{branch} --write, which makes it"
    raise UserError(
        f"site.checkout={checkout} is {release}",
        f"this config was made for {wanted}: keys and defaults differ between versions",
        (f"nemo_rl={known}, which is" if known else make)
        + f" that version; or check out {wanted} there, or name another folder: site.checkout=/path/to/RL",
    )


def _option_of(installed: Checkout) -> str | None:
    """The option of the group nemo_rl that was written from a checkout. A branch has its release's number: it is meant
    where its commit is the checkout's, and the release where the commit is not known."""
    same = []
    for option in versions.options():
        version = versions.version_of(option)
        if version.removeprefix("v").partition("+")[0] != installed.version:
            continue
        known = versions.known(version)
        commit = known.commit if known is not None else None
        if commit and commit == installed.commit:
            return option
        if not commit or not installed.commit:
            same.append(option)
    return same[0] if same else None


def parser_plugin(config: Mapping[str, Any]) -> Path | None:
    """The parser file that the overlay must name, or None when none is needed or the config already has one.

    Raises
    ------
    UserError: it is needed and not in the model's folder or Hugging Face snapshot
    """
    generation = config["policy"].get("generation") or {}
    vllm = generation.get("vllm_cfg") or {}
    parser = (vllm.get("http_server_serving_chat_kwargs") or {}).get("tool_parser")
    gym = (config.get("env") or {}).get("should_use_nemo_gym")
    if not gym or generation.get("backend") != "vllm" or parser != PARSER_NAME or vllm.get("tool_parser_plugin"):
        return None
    model = str(config["policy"]["model_name"])
    hf_home = (config.get("site") or {}).get("hf_home")
    folder = snapshot(model, hf_home)
    if folder is not None:
        files = sorted(folder.glob(PARSER_PATTERN))
        for file in [folder / PARSER_FILE, *files]:
            if file.is_file():
                return file.absolute()
    raise UserError(
        f"no {PARSER_FILE} in {folder or _hub(model, hf_home)}",
        f"vLLM has the tool parser {PARSER_NAME} from a file that must be named; the model's snapshot should have it",
        f"download {model} to HF_HOME with all its files, or name the parser's file: "
        "++policy.generation.vllm_cfg.tool_parser_plugin=/path/to/parser.py",
    )


def snapshot(model: str, hf_home: str | None) -> Path | None:
    """A model's files: `model` itself if it is a folder, else its snapshot in the Hugging Face cache, else None.

    Layout of the cache (huggingface_hub): hub/models--org--name/{refs/main, snapshots/<revision>/}.
    """
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    cache = _hub(model, hf_home)
    try:
        main = cache / "snapshots" / (cache / "refs" / "main").read_text().strip()
    except OSError:
        main = None
    if main is not None and main.is_dir():
        return main
    try:
        revisions = [p for p in (cache / "snapshots").iterdir() if p.is_dir()]
    except OSError:
        return None
    return max(revisions, key=lambda p: p.stat().st_mtime, default=None)


def revision(model: str, hf_home: str | None) -> str | None:
    """The commit of a model's snapshot; None of a folder that has none."""
    folder = snapshot(model, hf_home)
    return folder.name if folder is not None and folder.parent.name == "snapshots" else None


def _hub(model: str, hf_home: str | None) -> Path:
    home = hf_home or os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(home).expanduser() / "hub" / f"models--{model.replace('/', '--')}"


def _version(checkout: Path) -> str | None:
    try:
        text = (checkout / "nemo_rl" / "package_info.py").read_text()
    except OSError:
        text = ""
    parts = [re.search(rf"^{part} = (\d+)$", text, re.MULTILINE) for part in ("MAJOR", "MINOR", "PATCH")]
    if all(parts):
        return ".".join(part[1] for part in parts if part)
    try:
        version = tomllib.loads((checkout / "pyproject.toml").read_text()).get("project", {}).get("version")
    except (OSError, tomllib.TOMLDecodeError):
        return None
    return str(version) if version else None


def _commit(checkout: Path) -> str | None:
    git = checkout / ".git"
    try:
        if git.is_file():  # a worktree or a submodule: "gitdir: <path>"
            git = (checkout / git.read_text().partition(":")[2].strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        ref = head.partition(":")[2].strip()
        common = git
        if (git / "commondir").is_file():  # a worktree keeps its branches in the main one
            common = (git / (git / "commondir").read_text().strip()).resolve()
        if (common / ref).is_file():
            return (common / ref).read_text().strip()
        for line in (common / "packed-refs").read_text().splitlines():
            if line.endswith(f" {ref}"):
                return line.split()[0]
    except (OSError, UnicodeDecodeError):
        return None
    return None
