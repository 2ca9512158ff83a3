"""What starts NeMo RL: the script in its checkout, and the interpreter for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nano_exp.engines import entry
from nano_exp.errors import UserError

Config = Mapping[str, Any]
Environment = Mapping[str, str]


def section(config: Config, name: str) -> Mapping[str, Any]:
    return config.get(name) or {}


def script(config: Config) -> Path:
    gym = bool(section(config, "env").get("should_use_nemo_gym"))
    return Path(str(config["nemo_rl"]["scripts"]["gym" if gym else "grpo"]))


def folder(config: Config) -> Path:
    """The folder of the checkout."""
    named = section(config, "site").get("checkout")
    fix = "name a checkout of NeMo RL: site.checkout=/path/to/RL"
    if not named:
        raise UserError("site.checkout=null", f"the engine nemo_rl runs {script(config)} of a NeMo RL checkout", fix)
    checkout = Path(str(named)).expanduser().absolute()
    if not checkout.is_dir():
        raise UserError(f"site.checkout={named}", "there is no such folder on this host", fix)
    return checkout


def checkout(config: Config) -> Path:
    """The checkout, which has the script of this run."""
    path, script_path = folder(config), script(config)
    if not (path / script_path).is_file():
        version = section(config, "nemo_rl").get("version")
        raise UserError(
            f"site.checkout={path}",
            f"it has no {script_path}, so it is not NeMo RL {version}'s checkout",
            "name a checkout of NeMo RL: site.checkout=/path/to/RL",
        )
    return path


def interpreter(config: Config, env: Environment, way: entry.Entry) -> list[str]:
    """`site.python`, or upstream's way of starting: `uv run python`, which makes the checkout's environment first.

    In a container the words are the container's: nothing is looked for on the host.
    """
    python = section(config, "site").get("python")
    if way.contained:
        return [str(python)] if python else ["uv", "run", "python"]
    if python:
        program = shutil.which(str(Path(str(python)).expanduser()), path=env.get("PATH"))
        if not program:
            raise UserError(
                f"site.python={python}",
                "there is no such program on this host",
                "name the interpreter of NeMo RL's virtual environment: site.python=/path/to/venv/bin/python",
            )
        return [program]
    uv = shutil.which("uv", path=env.get("PATH"))
    if not uv:
        raise UserError(
            "site.python=null and no `uv` on PATH",
            "the checkout's scripts need NeMo RL's virtual environment",
            "name its interpreter, site.python=/path/to/venv/bin/python, or: pip install uv",
        )
    return [uv, "run", "python"]
