"""Make a NeMo RL checkout importable where its heavy packages (vllm, megatron, ...) are not installed."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
import types
import typing
from typing import Any, ClassVar
from unittest.mock import MagicMock

import packaging.version


class Hollow(types.ModuleType):
    """A package that is not installed: whatever is asked of it is a mock."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made


class Replacements(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Hollow packages for what nemo_rl itself imports and is not there; what others may import stays missing."""

    tops: ClassVar[set[str]] = set()

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        top = name.split(".")[0]
        if top == "nemo_rl":
            return None
        if top not in self.tops:
            frame = sys._getframe(1)
            while "importlib" in frame.f_code.co_filename and frame.f_back is not None:
                frame = frame.f_back
            if not str(frame.f_globals.get("__name__", "")).startswith("nemo_rl"):
                return None
            self.tops.add(top)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Hollow:
        return Hollow(spec.name)

    def exec_module(self, module: Any) -> None:
        pass


class OldEnough(packaging.version.Version):
    """NeMo RL v0.7.0 stops at a newer transformers than its own, for a patch that is no matter here."""

    def __init__(self, text: str) -> None:
        super().__init__("5.8.0" if text == importlib.metadata.version("transformers") else text)


def find(checkout: str) -> None:
    """Make a checkout's nemo_rl importable."""
    sys.path.insert(0, checkout)
    sys.meta_path.append(Replacements())
    packaging.version.Version = OldEnough  # type: ignore[misc]
    if sys.version_info < (3, 12):
        import typing_extensions

        typing.TypedDict = typing_extensions.TypedDict  # type: ignore[assignment]
