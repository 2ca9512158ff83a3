"""The data: NeMo Gym's workplace assistant as Gym's own preparation makes it, mathematics as `datasets` caches it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from nano_exp.prepare import command_line
from nano_exp.prepare.environments import NO_UV, environment
from nano_exp.prepare.step import MISSING, PARTLY, THERE, UNKNOWN, Look, Step, locks
from nano_exp.text import Say

GYM = "3rdparty/Gym-workspace/Gym"
WORKPLACE = "data/workplace_assistant"
CONFIGS = (
    "responses_api_models/vllm_model/configs/vllm_model_for_training.yaml",
    "resources_servers/workplace_assistant/configs/workplace_assistant.yaml",
)
#: What makes Gym's environment, as its own guide has it.
GYM_SYNC = ("sync", "--extra", "dev")
#: What a row of Gym's preparation has and the raw download has not: rollouts.py needs it.
AGENT = "agent_ref"
#: A larger file is not read to its end, bytes.
READ = 2 * 1024**3


@dataclass(frozen=True)
class Rows(Step):
    """Files of a row a line.

    Parameters
    ----------
    files: key -> path as the config has it
    gym: whether NeMo Gym reads them
    steps, prompts: what a run wants to take, and rows of each step; 0 where that is not known
    epochs: how often a run goes over them at most
    """

    name = "data"
    files: tuple[tuple[str, str], ...]
    gym: bool
    steps: int = 0
    prompts: int = 0
    epochs: int = 1

    def look(self) -> Look:
        words, states = [], set()
        for key, path in self.files:
            here = self._path(path)
            if here is None or not here.is_file():
                states.add(MISSING)
                words.append(f"no {path}")
                continue
            problem, count = self._read(here)
            states.add(PARTLY if problem else THERE)
            words.append(f"{path}: {problem}" if problem else f"{count:,} rows of {here.name}")
            if not problem and "train" in key and count * self.epochs < self.steps * self.prompts:
                words.append(f"enough for {count * self.epochs // self.prompts:,} of {self.steps:,} steps")
        state = next((state for state in (PARTLY, MISSING) if state in states), THERE)
        return Look(PARTLY if {MISSING, THERE} <= states else state, "; ".join(words))

    def _path(self, path: str) -> Path | None:
        if self.place.checkout is None and not Path(path).is_absolute():
            return None
        return (self.place.checkout or Path()) / path

    def _read(self, path: Path) -> tuple[str, int]:
        """What is wrong with a file, or how many rows it has."""
        if path.stat().st_size > READ:
            return "", 0
        count = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    return f"line {number} is not JSON: the file was cut off, or is another one", count
                if self.gym and not count and AGENT not in row:
                    return f"its rows have no {AGENT}: it is the raw download, before NeMo Gym's preparation", count
                count += 1
        return ("" if count else "it has no rows"), count

    @property
    def _workplace(self) -> bool:
        """Whether these are the files that Gym's preparation of the workplace assistant makes."""
        return all(path.startswith(f"{GYM}/{WORKPLACE}/") for _, path in self.files)

    @property
    def _raw(self) -> bool:
        """Whether they are those of the raw download, which the recipe of v0.5.0 names."""
        return all(f"{GYM}/resources_servers/workplace_assistant/data/" in path for _, path in self.files)

    def command(self) -> str:
        if not (self._workplace or self._raw):
            return ""
        folder = (self.place.checkout or Path("/path/to/RL")) / GYM
        lines = [] if self._program() else [f"cd {folder} && uv {' '.join(GYM_SYNC)}"]
        return "\n".join([*lines, f"cd {folder} && .venv/bin/{' '.join(map(_quoted, self._argv()))}"])

    def _argv(self) -> list[str]:
        if "+" in self.place.version:  # a branch after v0.7.0
            return [
                *("gym", "dataset", "collate", "--config", CONFIGS[0], "--resources-server", "workplace_assistant"),
                *("--output-dir", WORKPLACE, "--mode", "train_preparation", "--download", "+data_source=huggingface"),
            ]
        return [
            *("ng_prepare_data", f"+config_paths=[{','.join(CONFIGS)}]", f"+output_dirpath={WORKPLACE}"),
            *("+mode=train_preparation", "+should_download=true", "+data_source=huggingface"),
        ]

    def _program(self) -> Path | None:
        """Gym's own program, where its environment has been made."""
        if self.place.checkout is None:
            return None
        path = self.place.checkout / GYM / ".venv" / "bin" / self._argv()[0]
        return path if path.is_file() else None

    def hindered(self) -> str:
        if self._raw:
            keys = " ".join(f"{key}={GYM}/{WORKPLACE}/{Path(path).name}" for key, path in self.files)
            return f"the recipe of v0.5.0 names the raw download; what Gym prepares from it: {keys}"
        if not self._workplace:
            return "these files are yours to make: " + " ".join(f"{key}=/path/to/rows.jsonl" for key, _ in self.files)
        if self.place.checkout is None or not (self.place.checkout / GYM / "pyproject.toml").is_file():
            return "NeMo Gym, a submodule of NeMo RL, makes them: the checkout first"
        if self._program() is None and shutil.which("uv") is None:
            return f"NeMo Gym makes them, its environment {GYM}/.venv is not there, and {NO_UV}"
        return ""

    def lock_folder(self) -> Path:
        return locks((self.place.checkout or Path()) / GYM / "data") / "workplace_assistant"

    def make(self, say: Say) -> None:
        settings, folder = dict(self.place.settings), (self.place.checkout or Path()) / GYM
        if self._program() is None:
            command_line.run(["uv", *GYM_SYNC], say, folder, settings, self.command())
        program = self._program() or Path(".venv/bin", self._argv()[0])
        command_line.run([str(program), *self._argv()[1:]], say, folder, settings, self.command())


@dataclass(frozen=True)
class HubData(Step):
    """A data set of the hub, in the cache of `datasets`.

    Parameters
    ----------
    repository: org/name
    split: what NeMo RL loads of it
    """

    name = "data"
    repository: str
    split: str

    @property
    def folder(self) -> Path:
        cache = dict(self.place.settings).get("HF_DATASETS_CACHE") or str(self.place.hf_home / "datasets")
        owner, _, name = self.repository.partition("/")
        return Path(cache) / f"{owner}___{_snake(name)}"

    def look(self) -> Look:
        if list(self.folder.glob("*/*/*/dataset_info.json")):
            return Look(THERE, f"{self.repository} in {self.folder}")
        if self.folder.is_dir():
            return Look(PARTLY, f"{self.folder} is not whole")
        return Look(MISSING, f"no {self.repository} in {self.folder.parent}")

    def command(self) -> str:
        checkout = self.place.checkout or Path("/path/to/RL")
        return self.place.typed(["uv", "run", "python", "-c", self._code], checkout)

    @property
    def _code(self) -> str:
        return f"import datasets; datasets.load_dataset('{self.repository}', split='{self.split}')"

    def hindered(self) -> str:
        python = self._python()
        return "" if python.is_file() else "the driver's environment has the library that caches it: that step first"

    def _python(self) -> Path:
        return (environment(self.place) or Path("/nonexistent")) / "bin" / "python"

    def lock_folder(self) -> Path:
        return locks(self.place.hf_home) / self.folder.name

    def make(self, say: Say) -> None:
        settings = {**dict(self.place.settings), "HF_HOME": str(self.place.hf_home)}
        argv = [str(self._python()), "-c", self._code]
        command_line.run(argv, say, self.place.checkout or Path(), settings, self.command())


@dataclass(frozen=True)
class UnknownData(Step):
    """Data that NeMo RL loads by a name that is not known here."""

    name = "data"
    data_set: str

    def look(self) -> Look:
        return Look(UNKNOWN, f"{self.data_set}: what NeMo RL loads by that name is not looked at here")


#: dataset_name of NeMo RL -> the hub's name, and the split that it loads where none is said.
OF_THE_HUB = {"OpenMathInstruct-2": ("nvidia/OpenMathInstruct-2", "train_1M")}


def _snake(name: str) -> str:
    """As `datasets` names a folder: OpenMathInstruct-2 is open_math_instruct-2."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _quoted(word: str) -> str:
    return f"'{word}'" if "[" in word else word
