"""A place that is fit, and what the doctor says when one thing of it is not: each fault is named by its check."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import json
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import commands_case
import core_case
import pytest

from nano_exp import cli, doctor, project
from nano_exp.compose.freeze import Frozen
from nano_exp.doctor import check, engine_checks, folder_checks, host_checks, on_node, slurm_checks, told
from nano_exp.doctor import place as places
from nano_exp.doctor.check import CHECKS, Checked
from nano_exp.dotted import set_dotted
from nano_exp.nemo_rl.checkout import PARSER_FILE
from nano_exp.preflight import RULES, facts
from nano_exp.preflight.facts import FileSystem

ROW = ("model=nano_9b", "cluster=1n8g")
MODEL = "nvidia/NVIDIA-Nemotron-Nano-9B-v2"
NODES = "batch*|up|4:00:00|1-64|16|128|gpu:h100:8(S:0-1)|idle|EXCLUSIVE|2000000"
TERABYTES = 10**13


def settings(ahead_s: float = 0.0, **changed: str) -> str:
    """scontrol show config of a controller whose clock is so far ahead."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + ahead_s))
    values = {
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "ClusterName": "there",
        "GresTypes": "gpu",
        "MaxArraySize": "1001",
        "SLURM_VERSION": "23.11.1",
        **changed,
    }
    return "\n".join([f"Configuration data as of {at}", *(f"{key:23} = {value}" for key, value in values.items())])


@cache
def composed() -> Frozen:
    return core_case.frozen(Path("/launch"), *ROW)


@dataclass
class Fit:
    """A place where nothing is wrong, as files, commands and a config that a test then breaks."""

    folder: Path
    patch: pytest.MonkeyPatch
    words: dict[str, Any]
    config: dict[str, Any]
    overrides: tuple[str, ...] = (*ROW, "site=lab")
    parameters: dict[str, Any] = field(default_factory=lambda: {"partition": "batch", "timeout_min": 240})
    environ: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    network: bool = False

    def set(self, key: str, value: Any) -> None:
        set_dotted(self.config, key, value)

    def look(self) -> dict[str, Checked]:
        return {one.name: one for one in doctor.run(self.place())}

    def place(self) -> doctor.Place:
        commands_case.cluster(self.folder / "bin", self.words, self.without)
        frozen = dataclasses.replace(composed(), config=self.config, overrides=self.overrides)
        return doctor.Place(
            self.overrides, [frozen], None, self.parameters, {"PATH": os.environ["PATH"], **self.environ}, self.network
        )


def checkout(folder: Path, version: str, config: dict[str, Any]) -> None:
    """As much of a NeMo RL checkout as is looked at."""
    numbers = version.removeprefix("v").split(".")
    texts = {"nemo_rl/package_info.py": "MAJOR = {}\nMINOR = {}\nPATCH = {}\n".format(*numbers)}
    gym = "3rdparty/Gym-workspace/Gym"
    for script in config["nemo_rl"]["scripts"].values():
        texts[script] = ""
    for path in config["env"]["nemo_gym"]["config_paths"]:
        texts[f"{gym}/{path}"] = ""
    for part in ("train", "validation"):
        texts[config["data"][part]["data_path"]] = "{}\n"
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    config = copy.deepcopy(composed().config)
    checkout(tmp_path / "RL", config["nemo_rl"]["version"], config)
    snapshot = tmp_path / "hf" / "hub" / f"models--{MODEL.replace('/', '--')}" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    for name in (PARSER_FILE, "config.json", "tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).write_text("{}")
    (snapshot / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (tmp_path / "results").mkdir()
    made = {
        "site.name": "lab",
        "site.partition": "batch",
        "site.checkout": str(tmp_path / "RL"),
        "site.python": sys.executable,
        "site.hf_home": str(tmp_path / "hf"),
        "site.venv_dir": str(tmp_path / "venvs"),
        "run.results": str(tmp_path / "results"),
    }
    for key, value in made.items():
        set_dotted(config, key, value)
    words = {
        "config": settings(),
        "ping": commands_case.UP,
        "nodes": NODES,
        "partitions": "PartitionName=batch MaxMemPerNode=UNLIMITED",
        "associations": "research||normal|1000|",
        "qos": "normal||",
        "srun_help": "--container-image=IMAGE",
    }
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_CONF", "WANDB_API_KEY", "WANDB_MODE", "NANO_EXP_ENV", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1 << 20, 1 << 20))
    monkeypatch.setattr(facts, "file_system", lambda path: FileSystem("/shared", "nfs4"))
    monkeypatch.setattr(facts, "disk_free", lambda path: TERABYTES)
    monkeypatch.setattr(folder_checks, "room", lambda folder: (TERABYTES, 10**9))
    for name, one in CHECKS.items():  # a machine that is busy is no fault
        monkeypatch.setitem(CHECKS, name, dataclasses.replace(one, limit_s=60))
    monkeypatch.setattr(places, "PING_S", 60)
    for module in (places, slurm_checks, engine_checks):
        monkeypatch.setattr(module, "QUESTION_S", 60)
    return Fit(tmp_path, monkeypatch, words, config)


def test_a_fit_place_is_told_so(fit: Fit) -> None:
    checked = fit.look()
    assert list(checked) == list(CHECKS)
    assert {name: one.said for name, one in checked.items() if one.level in ("warning", "error")} == {}
    assert told.exit_code(list(checked.values())) == 0
    assert "16 nodes of 8 h100" in checked["partitions"].said[-1].found


def failing(name: str, words: str) -> Callable[[Fit], None]:
    return lambda fit: fit.words.setdefault("failing", {}).update({name: words})


def says(**words: str) -> Callable[[Fit], None]:
    return lambda fit: fit.words.update(words)


def key(name: str, value: Any) -> Callable[[Fit], None]:
    return lambda fit: fit.set(name, value)


def asks(**parameters: Any) -> Callable[[Fit], None]:
    return lambda fit: fit.parameters.update(parameters)


def env(name: str, value: str) -> Callable[[Fit], None]:
    return lambda fit: fit.environ.update({name: value})


def sets(what: Any, name: str, value: Any) -> Callable[[Fit], None]:
    return lambda fit: fit.patch.setattr(what, name, value)


def all_of(*steps: Callable[[Fit], None]) -> Callable[[Fit], None]:
    def step(fit: Fit) -> None:
        for one in steps:
            one(fit)

    return step


def another_hydra(fit: Fit) -> None:
    version = importlib.metadata.version
    fit.patch.setattr(importlib.metadata, "version", lambda name: "1.3.2" if name == "hydra-core" else version(name))


def without_yaml(fit: Fit) -> None:
    version = importlib.metadata.version

    def there(name: str) -> str:
        if name == "PyYAML":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    fit.patch.setattr(importlib.metadata, "version", there)


def open_secrets(fit: Fit) -> None:
    (fit.folder / "env.yaml").write_text("HF_TOKEN: x\n")
    (fit.folder / "env.yaml").chmod(0o644)


def few_files(fit: Fit) -> None:
    fit.patch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))


def no_commands(fit: Fit) -> None:
    fit.without = tuple(command for command, _ in commands_case.SAY.values())


def removed(path: str) -> Callable[[Fit], None]:
    def step(fit: Fit) -> None:
        for file in fit.folder.glob(path):
            file.unlink()

    return step


def full_quota(fit: Fit) -> None:
    (fit.folder / "bin").mkdir(exist_ok=True)
    command = fit.folder / "bin" / "quota"
    rows = ("nas:/home 9900000* 9000000 0 1700000000 12 0 0 0", "nas:/data 5 0 100 0 1 0 0 0")
    command.write_text("#!/bin/sh\n" + "".join(f"printf ' %s\\n' '{row}'\n" for row in rows) + "exit 1\n")
    command.chmod(0o755)


def silent_hub(fit: Fit) -> None:
    with socket.socket() as free:  # a port that nobody listens on any more
        free.bind(("127.0.0.1", 0))
        here = f"http://127.0.0.1:{free.getsockname()[1]}"
    fit.network = True
    fit.environ |= {"HF_ENDPOINT": here, "WANDB_BASE_URL": here}


#: What is wrong -> how it comes about, the check that names it, its level, and words of what is said.
FAULTS: dict[str, tuple[Callable[[Fit], None], str, str, str]] = {
    "an old Python": (
        sets(host_checks, "_project", lambda: {"requires-python": ">=9.1", "dependencies": []}),
        *("python", "error", "the project needs Python >=9.1"),
    ),
    "another Hydra": (another_hydra, "packages", "error", "hydra-core is 1.3.2"),
    "a package is missing": (without_yaml, "packages", "error", "PyYAML is missing"),
    "a copied site": (key("site.name", "default"), "config", "warning", "conf/site/lab.yaml calls itself default"),
    "secrets for all": (open_secrets, "secrets", "error", "is open to others (mode 0644)"),
    "few open files": (few_files, "shell-limits", "warning", "open files: 1024 at most"),
    "online without a key": (
        env("WANDB_MODE", "online"),
        "wandb",
        "error",
        "W&B is to log online, and there is no key",
    ),
    "no Slurm": (no_commands, "slurm-commands", "error", "no sbatch on PATH"),
    "a lost slurm.conf": (
        lambda fit: fit.patch.setenv("SLURM_CONF", "/nowhere/slurm.conf"),
        *("slurm-commands", "error", "SLURM_CONF=/nowhere/slurm.conf does not exist"),
    ),
    "a dead controller": (
        all_of(says(ping=""), failing("ping", "Slurmctld(primary) at head is DOWN")),
        *("slurm-commands", "error", "Slurm does not answer: Slurmctld(primary) at head is DOWN"),
    ),
    "no squeue": (lambda fit: setattr(fit, "without", ("squeue",)), "slurm-commands", "warning", "not on PATH: squeue"),
    "another partition": (asks(partition="bacth"), "partitions", "error", "partition bacth"),
    "a short partition": (asks(timeout_min=600), "partitions", "error", "a time limit of 10 h"),
    "no GPUs": (
        says(nodes="batch*|up|4:00:00|1-64|16|128|(null)|idle|NO|2000000"),
        "partitions",
        "error",
        "no partition has GPUs",
    ),
    "small arrays": (lambda fit: says(config=settings(MaxArraySize="2"))(fit), "limits", "warning", "MaxArraySize=2"),
    "another's account": (asks(account="reserach"), "limits", "error", "account reserach is not yours"),
    "Slurm refuses": (
        failing("test", "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy"),
        *("limits", "error", "Job violates accounting/QOS policy"),
    ),
    "a dead database": (
        failing("sacct", "sacct: error: slurm_persist_conn_open_without_init: Connection refused"),
        *("accounting", "warning", "Connection refused"),
    ),
    "a controller of tomorrow": (
        lambda fit: says(config=settings(ahead_s=600))(fit),  # now, not when this file was read
        *("controller-clock", "error", "ahead of this host's"),
    ),
    "no pyxis": (
        all_of(key("site.entry", "pyxis"), key("site.container.image", "nvcr.io#x"), says(srun_help="--nodes")),
        *("container", "error", "srun --help has no --container-image"),
    ),
    "no image": (
        all_of(key("site.entry", "pyxis"), key("site.container.image", "/nowhere/rl.sqsh")),
        *("container", "error", "site.container.image=/nowhere/rl.sqsh"),
    ),
    "no apptainer": (
        all_of(key("site.entry", "apptainer"), key("site.container.image", "docker://x")),
        *("container", "warning", "there is no apptainer on this host's PATH"),
    ),
    "a quota is used up": (full_quota, "quotas", "warning", "nas:/home: 9.4 GiB of a quota of 8.6 GiB"),
    "another release": (
        lambda fit: checkout(fit.folder / "RL", "v0.5.0", fit.config),
        *("checkout", "error", "is NeMo RL 0.5.0"),
    ),
    "no interpreter": (key("site.python", "/nowhere/python"), "checkout", "error", "site.python=/nowhere/python"),
    "no models' folder": (key("site.hf_home", "/nowhere/hf"), "models-folder", "error", "site.hf_home=/nowhere/hf"),
    "a full models' folder": (
        sets(facts, "disk_free", lambda path: TERABYTES if path.endswith("results") else 10**9),
        *("models-folder", "warning", "has 953.7 MiB free"),
    ),
    "no weights": (removed("hf/**/*.safetensors"), "model", "warning", "model.safetensors"),
    "no parser": (removed(f"hf/**/{PARSER_FILE}"), "tool-parser", "error", "has no nemotron_toolcall_parser*.py"),
    "no data": (removed("RL/**/train.jsonl"), "data", "error", "data.train.data_path="),
    "a disk of this host": (
        sets(facts, "file_system", lambda path: FileSystem("/", "ext4" if path.endswith("results") else "nfs4")),
        *("results", "warning", "only this host sees"),
    ),
    "results below a file": (
        all_of(key("run.results", "/etc/hosts/results")),
        *("results", "error", "cannot write /etc/hosts/results"),
    ),
    "no inodes": (
        sets(folder_checks, "room", lambda folder: (TERABYTES, 512)),
        "results",
        "warning",
        "512 inodes free",
    ),
    "a slow file server": (
        sets(folder_checks, "stamp", lambda descriptor: time.time() - 30),
        *("file-clock", "warning", "behind this host's"),
    ),
    "no hub": (silent_hub, "network", "warning", "likely not from the nodes"),
}
#: Checks that cannot look where another one's fault is, or have the same to say.
FOLLOW = {
    "no models' folder": {"model", "tool-parser"},
    "no GPUs": {"partitions"},
    "a disk of this host": {"models-folder"},
    "results below a file": {"results"},
    "no weights": {"model"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_its_check_alone(fault: str, fit: Fit) -> None:
    seed, name, level, words = FAULTS[fault]
    seed(fit)
    checked = fit.look()
    said = checked[name]
    assert said.level == level, said
    assert any(words in f"{one.found}; {one.why}" for one in said.said if one.level == level), said
    assert all(one.why and one.fix for one in said.said if one.level in ("warning", "error"))
    others = {other for other, one in checked.items() if one.level in ("warning", "error")}
    assert others - {name} <= FOLLOW.get(fault, set()), {other: checked[other].said for other in others}
    assert told.exit_code(list(checked.values())) == {"warning": 1, "error": 2}[level]


def test_a_controller_that_hangs_is_given_up_and_a_check_that_hangs_too(fit: Fit) -> None:
    fit.patch.setattr(places, "PING_S", 0.05)
    waits = threading.Event()

    def hang(place: doctor.Place) -> Iterator[check.Said]:
        waits.wait(30)
        yield check.fine("at last")

    fit.patch.setitem(CHECKS, "results", dataclasses.replace(CHECKS["results"], limit_s=0.2, look=hang))
    fit.words["hangs"] = ("ping",)
    checked = fit.look()
    waits.set()
    assert "scontrol gave no answer within" in checked["slurm-commands"].said[0].found
    assert checked["results"].said[0].found == "no answer within 0.2 s"
    assert {checked[name].level for name in ("partitions", "limits", "accounting")} == {"skipped"}


def test_a_fault_of_a_check_is_its_own(fit: Fit) -> None:
    fit.patch.setattr(folder_checks, "room", lambda folder: 1 // 0)
    checked = fit.look()
    assert [name for name, one in checked.items() if one.level == "error"] == ["results"]
    assert "ZeroDivisionError" in checked["results"].said[0].found


NODE = "welcome to n7\nhost=n7\ntime={now}\ngpus=1\nsmi=GPU 0: H100\ntmp_kib=99999999\nfiles=1048576\n{more}done=1"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("", "n7: 1 GPUs (GPU 0: H100), /tmp 95.4 GiB free"),
        ("mark=no\n", "n7 does not see"),
        ("hf_home=no\n", "n7 does not see site.hf_home="),
        ("checkout=no\n", "n7 does not see site.checkout="),
        ("python3=no\n", f"n7 does not see {sys.executable}"),
        ("engine_python=sh: 1: /x/python: not found\n", "site.python: sh: 1: /x/python: not found"),
        ("gpus=0\n", "n7 has no /dev/nvidia*"),
        ("tmp_kib=1000\n", "n7: /tmp has 1000.0 KiB free"),
        ("files=1024\n", "n7: 1024 open files at most"),
        ("time=1000\n", "the clock of n7 is"),
    ],
)
def test_what_a_node_says(more: str, said: str, fit: Fit) -> None:
    fit.words["srun"] = NODE.format(now=int(time.time()), more=more)
    checked = on_node.checked(fit.place(), 5)
    assert said in checked.said[0].found
    assert (checked.level == "ok") == (more == "")


def test_a_node_that_does_not_come(fit: Fit) -> None:
    fit.words["failing"] = {"srun": "srun: error: Unable to allocate resources: Requested nodes are busy"}
    checked = on_node.checked(fit.place(), 5)
    assert checked.level == "warning" and "Requested nodes are busy" in checked.said[0].found
    assert "--wait 20" in checked.said[0].fix


def test_as_it_is_typed(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    commands_case.cluster(fit.folder / "bin", fit.words)
    assert cli.main(["doctor", "--json", f"run.results={fit.folder}/results"]) in (0, 1)
    said = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in said["checks"]] == list(CHECKS)
    assert cli.main(["doctor", "model=nano_9x", "cluster=1n8g"]) == 2
    out = capsys.readouterr().out
    assert "error   config           model=nano_9x\n" in out and "  fix: model=nano_9b" in out
    assert out.splitlines()[-1].startswith(f"doctor: {len(CHECKS)} checks, 1 error")


@pytest.mark.parametrize(
    ("version", "terms", "good"),
    [
        *(("1.3.8", "==1.3.8", True), ("1.3.2", "==1.3.8", False), ("2.13.0+cu126", "==2.13.0", True)),
        *(("5.23.1", ">=5.23,<6", True), ("6.0.0", ">=5.23,<6", False), ("6.0.4", ">=6", True), ("1.0", "", True)),
    ],
)
def test_versions_against_what_is_asked_for(version: str, terms: str, good: bool) -> None:
    assert host_checks.satisfied(version, terms) is good


def test_the_page_lists_every_check() -> None:
    page = (Path(core_case.ROOT) / "docs" / "doctor.md").read_text()
    assert [f"| `{one.name}` | {one.summary} |" in page for one in CHECKS.values()] == [True] * len(CHECKS)


def test_every_rule_about_the_place_is_asked() -> None:
    texts = "".join(path.read_text() for path in (project.PACKAGE / "doctor").glob("*.py"))
    of_itself = {"slurm_there"}  # slurm-commands says it without a config
    assert [name for name, rule in RULES.items() if rule.place and f'"{name}"' not in texts] == sorted(of_itself)
