"""What NeMo RL makes once and then shares: its workers' environments, and a model converted to Megatron's format.

NeMo RL takes an environment for ready as soon as its bin/python is there, which uv makes before it installs anything
(utils/venvs.py _env_builder), and a conversion for whole as soon as iter_0000000 is there (models/megatron/setup.py
validate_model_paths). Here is what is whole on disk, what a run lacks, and how to make what is torn harmless, so that
NeMo RL makes it again. v0.5.0 to v0.7.0 agree in this. The order among runs is the attempt's (job/cache_lock.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

#: What NeMo RL leaves in an environment while it makes it, and for ever where it was killed.
STARTED = "STARTED_ENV_BUILDER"
#: In a conversion, written last.
LAST_FILE = "run_config.yaml"
ITERATION = "iter_0000000"
#: Nothing in a cache that somebody makes has changed for this long: he is dead. A package may compile for an hour.
SILENT_S = {STARTED: 2 * 3600.0, ITERATION: 1800.0}
#: Beside the caches: who makes them.
LOCKS = ".nano-exp"
#: Workers that take the driver's own interpreter where NEMO_RL_PY_EXECUTABLES_SYSTEM=1.
SYSTEM = ("VllmGenerationWorker", "VllmAsyncGenerationWorker", "SGLangGenerationWorker", "MegatronPolicyWorker")

Config = Mapping[str, Any]


class Cache(Protocol):
    """Something that runs share, and that the first of them makes."""

    @property
    def lock(self) -> Path:
        """The folder in which those who make it stand one behind the other."""

    @property
    def what(self) -> str:
        """It in words."""

    @property
    def certain(self) -> bool:
        """Whether an entry that looks whole is."""

    def entries(self) -> dict[str, bool]:
        """What is there by name, and whether it looks whole."""

    def lacks(self, whole: Collection[str]) -> list[str]:
        """What the run needs besides the entries that are whole, in words."""

    def busy(self, name: str) -> bool:
        """Whether somebody who knows nothing of the lock seems to be making this entry just now."""

    def mend(self, name: str) -> str:
        """Have NeMo RL make a torn entry again. Says what was done. Raises OSError."""


@dataclass(frozen=True)
class Environments:
    """The environments of NeMo RL's workers.

    Parameters
    ----------
    folder: NEMO_RL_VENV_DIR; each environment is a folder in it, named as its worker's class with its module
    workers: the classes that the run starts
    """

    folder: Path
    workers: tuple[str, ...]

    @property
    def lock(self) -> Path:
        return self.folder / LOCKS

    @property
    def what(self) -> str:
        return f"the workers' environments in {self.folder}"

    @property
    def certain(self) -> bool:
        return False  # a builder that fails leaves the same

    def entries(self) -> dict[str, bool]:
        return {path.name: self._whole(path) for path in _folders(self.folder)}

    def lacks(self, whole: Collection[str]) -> list[str]:
        workers_there = {name.rpartition(".")[2] for name in whole}
        return [f"the environment of {worker}" for worker in self.workers if worker not in workers_there]

    def busy(self, name: str) -> bool:
        path = self.folder / name
        inside = [*path.glob("lib/python*/site-packages"), path / "bin", path / STARTED]
        return (path / STARTED).exists() and _changed_within(inside, SILENT_S[STARTED])

    def mend(self, name: str) -> str:
        """Without bin/python NeMo RL runs uv again, which keeps what is installed and adds the rest."""
        for path in (self.folder / name / "bin" / "python", self.folder / name / STARTED):
            path.unlink(missing_ok=True)
        return f"{self.folder / name} was not finished: it is made ready for NeMo RL to go on with it"

    @staticmethod
    def _whole(path: Path) -> bool:
        return (path / "bin" / "python").exists() and not (path / STARTED).exists()


@dataclass(frozen=True)
class Conversion:
    """A model's weights in Megatron's format.

    Parameters
    ----------
    folder: where conversions lie
    name: of this one in it
    again: whether NeMo RL is told to make it anew (force_reconvert_from_hf)
    """

    folder: Path
    name: str
    again: bool = False

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def lock(self) -> Path:
        return self.folder / LOCKS / self.name.replace("/", "--")

    @property
    def what(self) -> str:
        return f"the Megatron conversion {self.path}"

    @property
    def certain(self) -> bool:
        return True  # its last file is there

    def entries(self) -> dict[str, bool]:
        iteration = self.path / ITERATION
        return {self.name: (iteration / LAST_FILE).is_file()} if iteration.exists() else {}

    def lacks(self, whole: Collection[str]) -> list[str]:
        return [] if self.name in whole and not self.again else [self.what]

    def busy(self, name: str) -> bool:
        iteration = self.path / ITERATION
        return not (iteration / LAST_FILE).is_file() and _changed_within(
            [iteration, *_files(iteration)], SILENT_S[ITERATION]
        )

    def mend(self, name: str) -> str:
        aside = self.path.with_name(f"{self.path.name}.torn-{time.strftime('%Y%m%d-%H%M%S')}")
        self.path.rename(aside)
        return f"{self.path} was not finished: set aside as {aside}, which nobody needs"


def of(config: Config, environ: Mapping[str, str]) -> list[Cache]:
    """What a run shares with others and would make where it is not there, in the order in which it is to be locked.

    Folders inside a container's image are not among them: each run has its own.

    Parameters
    ----------
    config: a frozen config
    environ: of the attempt; the site's own settings come on top
    """
    if (config.get("engine") or {}).get("name") != "nemo_rl":
        return []
    site = config.get("site") or {}
    contained = (site.get("entry") or "bare") != "bare"
    env = {} if contained else dict(environ)
    for name, key in (("NEMO_RL_VENV_DIR", "venv_dir"), ("HF_HOME", "hf_home")):
        if site.get(key):
            env[name] = str(Path(str(site[key])).expanduser().absolute())
    for name, value in (site.get("env") or {}).items():
        env[str(name)] = "" if value is None else str(value)
    caches = (_environments(config, env, contained), _conversion(config, env, contained))
    return [cache for cache in caches if cache is not None]


def cold(caches: Collection[Cache]) -> list[str]:
    """What has to be made before these can be used, in words."""
    return [
        word for cache in caches for word in cache.lacks([name for name, whole in cache.entries().items() if whole])
    ]


def _environments(config: Config, env: Mapping[str, str], contained: bool) -> Environments | None:
    site = config.get("site") or {}
    if contained and env.get("NEMO_RL_VENV_DIR") != str(site.get("venv_dir")):
        return None  # the image's
    named = env.get("NEMO_RL_VENV_DIR") or (f"{site['checkout']}/venvs" if site.get("checkout") else "")
    workers = list(_workers(config))
    if env.get("NEMO_RL_PY_EXECUTABLES_SYSTEM") == "1":
        workers = [worker for worker in workers if worker not in SYSTEM]
    return Environments(Path(named), tuple(workers)) if named and workers else None


def _workers(config: Config) -> Iterator[str]:
    """The classes of workers with environments of their own (distributed/ray_actor_environment_registry.py)."""
    policy = config.get("policy") or {}
    generation = policy.get("generation") or {}
    if (policy.get("megatron_cfg") or {}).get("enabled"):
        yield "MegatronPolicyWorker"
    else:
        yield "DTensorPolicyWorkerV2" if (policy.get("dtensor_cfg") or {}).get("_v2") else "DTensorPolicyWorker"
    if generation.get("backend") == "vllm":
        is_async = (generation.get("vllm_cfg") or {}).get("async_engine")
        yield "VllmAsyncGenerationWorker" if is_async else "VllmGenerationWorker"
    elif generation.get("backend") == "sglang":
        yield "SGLangGenerationWorker"
    if (config.get("env") or {}).get("should_use_nemo_gym"):
        yield "NemoGym"
    if ((config.get("grpo") or {}).get("async_grpo") or {}).get("enabled"):
        yield from ("AsyncTrajectoryCollector", "ReplayBuffer")
    elif (config.get("data_plane") or {}).get("enabled"):
        yield "SyncRolloutActor"


def _conversion(config: Config, env: Mapping[str, str], contained: bool) -> Conversion | None:
    policy = config.get("policy") or {}
    megatron = policy.get("megatron_cfg") or {}
    if not megatron.get("enabled") or not policy.get("model_name") or policy.get("pretrained_checkpoint"):
        return None
    home, named = (env.get(key, "").strip() for key in ("HF_HOME", "NRL_MEGATRON_CHECKPOINT_DIR"))
    if contained and not (Path(named).parent.is_dir() if named else home == (config.get("site") or {}).get("hf_home")):
        return None  # the image's own, or a path of the container's
    folder = Path(named) if named else Path(home or Path.home() / ".cache" / "huggingface") / "nemo_rl"
    again = megatron.get("force_reconvert_from_hf") is True
    return Conversion(folder, _conversion_name(config), again)


def _conversion_name(config: Config) -> str:
    """As validate_model_paths names it; overrides of the model's config are in the name from v0.6.0 on."""
    model = str(config["policy"]["model_name"])
    here = Path(str((config.get("site") or {}).get("checkout") or "."), model)  # the engine works in its checkout
    name = f"model_{model.replace('/', '_')}" if here.exists() else model
    overrides = config["policy"].get("hf_config_overrides")
    if not overrides or (config.get("nemo_rl") or {}).get("version") == "v0.5.0":
        return name
    words = json.dumps(overrides, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{name}__hfovr_{hashlib.sha256(words.encode()).hexdigest()[:12]}"


def _folders(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.is_dir() and path.name[:1] != "."]


def _files(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _changed_within(paths: Collection[Path], seconds: float) -> bool:
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0) > time.time() - seconds
