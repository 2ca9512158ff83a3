"""Where the stand-in keeps what runs share, for one session of tests: neither in the work tree nor at home."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def with_caches() -> None:
    """Name folders in this process's environment, which what it starts has too."""
    folder = Path(tempfile.mkdtemp(prefix="nano-exp-caches-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("NEMO_RL_VENV_DIR", str(folder / "venvs"))
    os.environ.setdefault("NRL_MEGATRON_CHECKPOINT_DIR", str(folder / "megatron"))
