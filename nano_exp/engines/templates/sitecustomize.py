"""In every Python of a run that shares its host: vLLM looks for ports from the run's own on.

NeMo RL from v0.7.0 on sets VLLM_PORT for its engines to 20001 (main: 7000) and 100 more for each, by their place in the
run alone (models/generation/vllm/vllm_worker.py 132), and vLLM tries a port, lets go of it and takes it later: two runs
that start at once take the same one. No key and no variable sets another, so the constant is set where it is defined.
Older versions have none: there vLLM's ports are the kernel's choice.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

MODULE, CONSTANT, VARIABLE = "nemo_rl.distributed.virtual_cluster", "DEFAULT_VLLM_PORT_RANGE_LOW", "NANO_EXP_VLLM_PORT"


class Finder(importlib.abc.MetaPathFinder):
    """Finds that one module as it is found otherwise, and sets the constant once it was executed."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):  # type: ignore[no-untyped-def]
            execute(module)
            if hasattr(module, CONSTANT):
                setattr(module, CONSTANT, int(os.environ[VARIABLE]))

        spec.loader.exec_module = exec_module
        return spec


def others() -> None:
    """Execute the module of this name that this one hides."""
    here = Path(__file__).resolve().parent
    path = [folder for folder in sys.path if Path(folder).resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if os.environ.get(VARIABLE, "").isdigit():
    sys.meta_path.insert(0, Finder())
others()
