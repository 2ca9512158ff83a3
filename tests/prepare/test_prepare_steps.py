"""NeMo RL, environments, image, data and conversion made ahead, with programs of the same names that do as little."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import upstream_case
from core_case import frozen

from nano_exp.nemo_rl import caches
from nano_exp.prepare import conversion, data_sets, steps, work
from nano_exp.prepare.conversion import Conversion
from nano_exp.prepare.data_sets import GYM, HubData, Rows
from nano_exp.prepare.environments import PREFETCH, Driver, Workers
from nano_exp.prepare.image import Image
from nano_exp.prepare.sources import Checkout
from nano_exp.prepare.step import MISSING, PARTLY, THERE, Place, Step
from nano_exp.prepare.step_table import as_json, text

NINE, TWELVE = ("model=nano_9b", "cluster=1n8g"), ("model=nano_12b", "cluster=1n8g")
WORKERS = ("MegatronPolicyWorker", "VllmGenerationWorker")


def place(folder: Path, checkout: Path | None = None, version: str = "v0.7.0") -> Place:
    return Place(folder / "hf", checkout or folder / "RL", version, False, ())


def program(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program on PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def made(step: Step) -> work.Result:
    (result,) = work.make([step], lambda _: None)
    return result


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a tag and a submodule, as NeMo RL's."""
    for name, value in upstream_case.GIT_ENV.items():
        monkeypatch.setenv(name, value)
    return upstream_case.upstream(tmp_path)


def test_nemo_rl_is_cloned_with_its_submodules(upstream: Path, tmp_path: Path) -> None:
    step = Checkout(place(tmp_path), url=str(upstream))
    assert step.look().state == MISSING and "--checkout v0.7.0" in step.hindered()
    assert f"--branch v0.7.0 --recurse-submodules {upstream} {tmp_path}/RL" in step.command()
    asked = replace(step, release="v0.7.0")
    assert made(asked).made and (tmp_path / "RL" / GYM / "pyproject.toml").is_file()
    subprocess.run(["git", "submodule", "deinit", "-q", "-f", "--all"], cwd=tmp_path / "RL", check=True)
    assert step.look().state == PARTLY and GYM in step.look().found
    assert made(step).made, "submodules are had without --checkout: nothing of the user's is changed"
    other = replace(step, place=place(tmp_path, version="v0.6.0"))
    assert made(other).look.state == PARTLY and "checkout v0.6.0" in made(other).hindered


def test_a_clone_that_fails_leaves_nothing_and_has_the_command(tmp_path: Path) -> None:
    result = made(Checkout(place(tmp_path), "v0.7.0", str(tmp_path / "nowhere")))
    assert result.error is not None and "git clone" in result.error.fix and "nowhere" in result.error.found
    assert not (tmp_path / "RL").exists() and not (tmp_path / ".RL.cloning").exists()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout with what the steps look for."""
    folder = tmp_path / "RL"
    (folder / PREFETCH).parent.mkdir(parents=True)
    (folder / PREFETCH).touch()
    (folder / "pyproject.toml").touch()
    return folder


def test_the_drivers_environment_is_made_by_uv(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Driver(place(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "uv is not on PATH" in step.hindered() and step.command() == f"cd {source} && uv sync"
    monkeypatch.undo()
    make = "mkdir -p .venv/bin .venv/lib/python3.12/site-packages/ray && touch .venv/bin/python"
    program(tmp_path / "bin", "uv", "mkdir -p .venv/bin && touch .venv/bin/python", monkeypatch)
    result = made(step)
    assert result.look.state == PARTLY and result.error is not None, "uv ended with 0, and ray is not there"
    program(tmp_path / "bin", "uv", make, monkeypatch)
    assert made(step).made


def test_workers_environments_are_made_and_what_the_script_says_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Workers(place(tmp_path), caches.Environments(tmp_path / "venvs", WORKERS))
    one = "for w in $WORKERS; do d=$NEMO_RL_VENV_DIR/nemo_rl.$w/bin; mkdir -p $d; touch $d/python; done; shift 2; "
    monkeypatch.setenv("WORKERS", WORKERS[0])
    program(tmp_path / "bin", "uv", one + 'echo "  Failed: 1"; echo "    - VllmGenerationWorker"', monkeypatch)
    failed = made(step)
    assert failed.error is not None and "Failed: 1" in failed.error.found and "ends with 0" in failed.error.why
    monkeypatch.setenv("WORKERS", " ".join(WORKERS))
    program(tmp_path / "bin", "uv", one + 'echo "$@" > filters', monkeypatch)
    assert made(step).look.state == THERE
    assert (source / "filters").read_text().split() == list(WORKERS)
    assert replace(step, place=place(tmp_path, version="v0.5.0")).command().endswith(PREFETCH), "v0.5 has no filters"


def test_an_image_is_imported_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Image(place(tmp_path), str(tmp_path / "nemo.sqsh"), False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "enroot is not on this host" in step.hindered()
    assert step.command() == f"enroot import -o {tmp_path}/nemo.sqsh docker://nvcr.io#nvidia/nemo-rl:v0.7.0"
    monkeypatch.undo()
    program(tmp_path / "bin", "enroot", 'echo half > "$3"; exit 3', monkeypatch)
    assert made(step).error is not None and [path.name for path in tmp_path.glob("*.sqsh")] == []
    program(tmp_path / "bin", "enroot", 'echo image > "$3"', monkeypatch)
    assert made(step).made and (tmp_path / "nemo.sqsh").read_text() == "image\n"
    assert "apptainer pull" in replace(step, apptainer=True).command()


def rows_step(folder: Path, path: str = f"{GYM}/{data_sets.WORKPLACE}/train.jsonl") -> Rows:
    return Rows(place(folder), (("data.train.data_path", path),), True)


def test_gyms_data_are_made_by_its_own_program(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = rows_step(tmp_path)
    assert step.look().state == MISSING and "uv sync" in step.command() and "the checkout first" in step.hindered()
    (source / GYM).mkdir(parents=True)
    (source / GYM / "pyproject.toml").touch()
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "its environment" in step.hindered() and "uv is not on PATH" in step.hindered()
    monkeypatch.undo()
    tool = tmp_path / "tool"
    tool.write_text(
        "#!/bin/sh\nmkdir -p data/workplace_assistant && cd data/workplace_assistant\n"
        "echo '{\"agent_ref\": 1}' > train.jsonl\n"
    )
    tool.chmod(0o755)
    sync = f'[ "$*" = "sync --extra dev" ] && mkdir -p .venv/bin && cp {tool} .venv/bin/ng_prepare_data'
    program(tmp_path / "bin", "uv", sync, monkeypatch)
    assert made(step).made and "1 rows of train.jsonl" in step.look().found
    assert "enough for 0 of 10 steps" in replace(step, steps=10, prompts=64).look().found


@pytest.mark.parametrize(
    ("line", "words"), [('{"agent_ref": 1}\n{"ag', "line 2 is not JSON"), ("{}", "raw download"), ("", "no rows")]
)
def test_rows_that_cannot_be_trained_on_are_told(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "rows.jsonl").write_text(line)
    look = rows_step(tmp_path, str(tmp_path / "rows.jsonl")).look()
    assert look.state == PARTLY and words in look.found


def test_the_raw_download_of_v0_5_has_its_two_paths_set(tmp_path: Path) -> None:
    raw = rows_step(tmp_path, f"{GYM}/resources_servers/workplace_assistant/data/train.jsonl")
    assert f"data.train.data_path={GYM}/data/workplace_assistant/train.jsonl" in raw.hindered()
    assert "gym dataset collate" in replace(raw, place=place(tmp_path, version="v0.7.0+7ea279ab")).command()


def test_mathematics_is_looked_for_as_datasets_keeps_it(tmp_path: Path) -> None:
    step = HubData(place(tmp_path), "nvidia/OpenMathInstruct-2", "train_1M")
    assert step.look().state == MISSING and "load_dataset" in step.command()
    info = tmp_path / "hf/datasets/nvidia___open_math_instruct-2/default/0.0.0/abc/dataset_info.json"
    info.parent.mkdir(parents=True)
    assert step.look().state == PARTLY
    info.touch()
    assert step.look().state == THERE


@pytest.fixture
def convert(tmp_path: Path, source: Path) -> Conversion:
    cache = caches.Conversion(tmp_path / "megatron", "org/tiny")
    return Conversion(place(tmp_path), cache, "org/tiny", "null", "{}", 8, tmp_path / "venvs", ("nano-exp", "prepare"))


def test_a_conversion_is_made_by_the_workers_environment_on_gpus(
    convert: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the step workers first" in convert.hindered()
    python = tmp_path / "venvs" / "nemo_rl.MegatronPolicyWorker" / "bin" / "python"
    program(python.parents[1], "x", "", monkeypatch) if python.parents[1].mkdir(parents=True) else None
    body = 'eval "folder=\\${$(($# - 2))}"; mkdir -p $folder/iter_0000000; touch $folder/iter_0000000/run_config.yaml'
    program(python.parent, "python", body, monkeypatch)
    program(tmp_path / "bin", "nvidia-smi", "exit 9", monkeypatch)
    assert "GPUs" in convert.hindered() and "sbatch" in convert.command()
    program(tmp_path / "bin", "sbatch", 'echo "$@" > sent; echo "41;here"', monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nano_exp.slurm.client._unconfigured", lambda: "")
    (sent,) = work.make([convert], lambda _: None, submit=True)
    assert "job 41" in sent.hindered and "--wrap=nano-exp prepare" in (tmp_path / "sent").read_text()
    program(tmp_path / "bin", "nvidia-smi", "echo GPU 0: H100", monkeypatch)
    assert made(convert).made and convert.cache.entries() == {"org/tiny": True}


def test_a_conversion_takes_the_runs_layout_where_a_node_holds_it() -> None:
    one = json.loads(conversion.layout({"tensor_model_parallel_size": 8, "pipeline_dtype": "bfloat16"}, 8))
    assert one["tensor_model_parallel_size"] == 8 and set(one) == set(conversion.LAYOUT)
    assert conversion.layout({"tensor_model_parallel_size": 8, "pipeline_model_parallel_size": 2}, 8) == "null"


def test_the_steps_of_a_launch(tmp_path: Path) -> None:
    of = {
        name: [step.name for step in steps.of([frozen(tmp_path, *words, *more).config], {}, steps.Wanted())]
        for name, words, more in (
            ("nine", NINE, (f"site.checkout={tmp_path}",)),
            ("twelve", TWELVE, ()),
            ("contained", TWELVE, ("site.entry=pyxis", "site.container.image=/x.sqsh")),
        )
    }
    gym = ["model", "parser", "thinking", "data", "conversion"]
    assert of["nine"] == ["checkout", "driver", "workers", *gym]
    assert of["twelve"] == ["checkout", "driver", "model", "data", "conversion"]
    assert of["contained"][:2] == ["image", "model"]
    assert not steps.of([frozen(tmp_path, "model=nano_tiny").config], {}, steps.Wanted())


def test_every_step_of_a_bare_machine_has_something_to_type(tmp_path: Path) -> None:
    site = (f"site.checkout={tmp_path}/RL", f"site.hf_home={tmp_path}/hf")
    results = work.look(
        steps.of([frozen(tmp_path, *words, *site).config for words in (NINE, TWELVE)], {}, steps.Wanted())
    )
    shown = json.loads(as_json(results))
    assert all(one["command"] or one["hindered"] for one in shown if one["state"] == MISSING)
    assert {one["step"] for one in shown} <= {line.split()[0] for line in text(results).splitlines() if line.strip()}
