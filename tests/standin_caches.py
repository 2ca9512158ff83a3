"""What the stand-in's runs share, made as if by hand for one session of tests: neither in the work tree nor at home."""

from __future__ import annotations

import atexit
import os
import re
import runpy
import shutil
import tempfile
from functools import cache
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "conf" / "model"
WORKERS = Path(__file__).with_name("standin") / "workers.py"


@cache
def with_caches() -> None:
    """Name folders in this process's environment, which what it starts has too; nothing in them is left to make."""
    folder = Path(tempfile.mkdtemp(prefix="nano-exp-caches-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, kind in (("NEMO_RL_VENV_DIR", "venvs"), ("NRL_MEGATRON_CHECKPOINT_DIR", "megatron")):
        os.environ[name] = str(folder / kind)
    os.environ["NANO_EXP_CACHE"] = str(folder / "composed")
    modules = runpy.run_path(str(WORKERS))["MODULES"]
    for worker, module in modules.items():
        python = folder / "venvs" / f"nemo_rl.{module}.{worker}" / "bin" / "python"
        python.parent.mkdir(parents=True)
        for made in (python, python.parents[1] / "package"):
            made.touch()
    for model in MODELS.glob("*.yaml"):
        if hub := re.search(r"^ +hf_id: (\S+)", model.read_text(), re.MULTILINE):
            last = folder / "megatron" / hub[1] / "iter_0000000" / "run_config.yaml"
            last.parent.mkdir(parents=True, exist_ok=True)
            last.touch()
