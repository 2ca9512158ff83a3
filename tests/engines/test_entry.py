"""How a site enters the engine: the commands in full, for each kind of site."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from nemo_rl_case import make_config, make_context
from pace import limit

from nano_exp.engines import entry, nodes
from nano_exp.engines.nemo_rl import driver_env, engine
from nano_exp.errors import UserError
from nano_exp.slurm import setup_lines

TWO = entry.Step(nodes=2, cpus=16, gpus=8)
STEP = (
    "srun --overlap --nodes=2 --ntasks=2 --ntasks-per-node=1 --cpus-per-task=16 --mem=0 --gpus-per-node=8 "
    "--mpi=none --export=ALL --kill-on-bad-exit=1 --unbuffered"
)
DOCS = Path(__file__).parents[2] / "docs" / "sites.md"


def site(kind: str, **values: Any) -> dict[str, Any]:
    container = {"image": "nvcr#nvidia/nemo-rl:v0.7.0", "mounts": ["/data:/data:ro"], "flags": ["--extra"]}
    return {"entry": kind, "container": container, "hf_home": "/shared/hf", "srun": ["--network=x"], **values}


@pytest.mark.parametrize(
    ("kind", "tail"),
    [
        ("bare", "--network=x sh node.sh"),
        (
            "pyxis",
            "--network=x --container-image=nvcr#nvidia/nemo-rl:v0.7.0 "
            "--container-mounts=/data:/data:ro,/r/run:/r/run,/shared/hf:/shared/hf "
            "--no-container-mount-home --container-workdir=/opt/nemo-rl --extra sh node.sh",
        ),
        (
            "apptainer",
            "--network=x apptainer exec --nv --bind /data:/data:ro --bind /r/run:/r/run --bind /shared/hf:/shared/hf "
            "--pwd /opt/nemo-rl --extra nvcr#nvidia/nemo-rl:v0.7.0 sh node.sh",
        ),
    ],
)
def test_the_step_over_two_nodes(kind: str, tail: str) -> None:
    way = entry.of(site(kind), ["/r/run", "/shared/hf", "/r/run/checkpoints", None])
    assert " ".join(entry.step_argv(way, TWO, ["sh", "node.sh"])) == f"{STEP} {tail}"


def test_a_step_asks_for_gpus_in_the_sites_words() -> None:
    argv = entry.step_argv(entry.of({}), entry.Step(2, 16, 8, "gpu:h100"), ["sh"])
    assert [word for word in argv if "gpu" in word] == ["--gres=gpu:h100:8"]


def test_a_step_asks_for_no_gpus_where_slurm_has_none() -> None:
    argv = entry.step_argv(entry.of({}), entry.Step(2, 16, 0), ["sh"])
    assert not [word for word in argv if "gpu" in word]


@pytest.mark.parametrize(
    ("given", "own", "mounts"),
    [
        ([], ["/a/b", "/a", "/a/b/c", "/ab"], ("/a:/a", "/ab:/ab")),
        (["/a:/a"], ["/a/b"], ("/a:/a",)),
        (["/a"], ["/a/b"], ("/a",)),
        (["/other:/a"], ["/a", "/a/b"], ("/other:/a", "/a/b:/a/b")),
        (["/x:/y:ro", "/x:/y:ro"], [None], ("/x:/y:ro",)),
    ],
)
def test_mounts_are_added_once(given: list[str], own: list[str | None], mounts: tuple[str, ...]) -> None:
    assert entry.merge_mounts(given, own) == mounts


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"entry": "docker"}, "site.entry=docker"),
        ({"entry": "pyxis"}, "site.container.image=null"),
        ({"entry": "apptainer", "container": {"image": "/nowhere/x.sif"}}, "site.container.image=/nowhere/x.sif"),
    ],
)
def test_refusals(values: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError) as caught:
        entry.of(values)
    assert found in caught.value.found


def in_container(tmp: Path, kind: str, **changes: Any) -> dict[str, Any]:
    """A config of a site where nothing of the engine is on the host."""
    image = {"image": "docker://nemo", "workdir": "/opt/nemo-rl", "mounts": [], "flags": []}
    return make_config(
        tmp,
        site__entry=kind,
        site__container=image,
        site__checkout=None,
        site__python="/opt/venv/bin/python",
        **changes,
    )


@pytest.mark.parametrize("kind", ["pyxis", "apptainer"])
def test_one_node_in_a_container(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "20")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")  # what was asked for, of a whole node of 20
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    config = in_container(tmp_path, kind, site__node_setup=["export A=1"])
    engine.check(config)
    ctx = make_context(config, tmp_path)
    command = engine.command(config, ctx)
    inside = ctx.attempt_dir / "driver.sh"
    assert command.argv[-2:] == ["sh", str(inside)]
    words = " ".join(command.argv)
    if kind == "pyxis":
        assert words.startswith("srun --overlap --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=20 --mem=0")
        assert f"--container-mounts={tmp_path}:{tmp_path} --no-container-mount-home" in words
        assert "--container-workdir=/opt/nemo-rl" in words
    else:
        assert words.startswith(f"apptainer exec --nv --bind {tmp_path}:{tmp_path} --pwd /opt/nemo-rl docker://nemo")
    text = inside.read_text()
    assert 'engine_python() { exec /opt/venv/bin/python "$@"; }' in text
    assert f"engine_python examples/nemo_gym/run_grpo_nemo_gym.py --config {ctx.config_path}" in text
    for line in (f"export HF_HOME={tmp_path / 'hf'}", "export RAY_ADDRESS=local", "export A=1"):
        assert line in text
    assert "canary" not in text + words and "export PATH" not in text
    assert command.env["WANDB_API_KEY"] == "canary"
    for folder in command.scratch:
        folder.rmdir()


def test_a_secret_that_the_engine_gets_is_not_written_into_its_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, and by its value under a name that tells nothing: whatever way it came into the settings."""
    monkeypatch.setenv("MY_API_KEY", "canary-one")
    added = {"OTHER_TOKEN": "canary-two", "ADDRESS": "https://x?key=canary-one", "PLAIN": "x"}
    config = in_container(tmp_path, "apptainer", site__env=added)
    ctx = make_context(config, tmp_path)
    command = engine.command(config, ctx)
    text = (ctx.attempt_dir / "driver.sh").read_text()
    assert "canary" not in text + " ".join(command.argv)
    assert "export PLAIN=x" in text
    assert {name: command.env[name] for name in added} == added
    for folder in command.scratch:
        folder.rmdir()


def test_set_up_lines_of_a_bare_node_run_before_the_driver(tmp_path: Path) -> None:
    config = make_config(tmp_path, site__node_setup=["export STANDIN_STEPS_PER_EPOCH=2", "echo from the site"])
    command = engine.command(config, make_context(config, tmp_path))
    done = subprocess.run(
        command.argv, env=command.env, cwd=command.cwd, capture_output=True, text=True, timeout=limit(30)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("from the site\n") and "Step 2/2" in done.stdout and "Step 3/" not in done.stdout
    config["site"]["node_setup"] = ["false"]
    command = engine.command(config, make_context(config, tmp_path, 2))
    assert subprocess.run(command.argv, env=command.env, cwd=command.cwd, capture_output=True).returncode == 1


def two_nodes(tmp: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[list[str], dict[str, str], str]:
    """argv, environment and node.sh of a two-node attempt."""
    monkeypatch.setattr("nano_exp.slurm.hostnames", lambda _: ["gpu01", "gpu02"])
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu[01-02]")
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "16(x2)")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1,2,3,4,5,6,7")
    config = make_config(tmp, cluster__num_nodes=2, **changes)
    ctx = make_context(config, tmp)
    command = engine.command(config, ctx)
    return command.argv, command.env, (ctx.attempt_dir / "nodes" / "node.sh").read_text()


def test_two_bare_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("HF_TOKEN", "canary")
    ports = {"gcs": 9910, "workers": [12000, 12999]}
    argv, env, script = two_nodes(tmp_path, monkeypatch, engine__ports=ports, engine__join_deadline_s=60)
    folder = tmp_path / "attempts" / "1" / "nodes"
    assert " ".join(argv) == f"{STEP} sh {folder / 'node.sh'}"
    assert "RAY_ADDRESS" not in env and "export RAY_ADDRESS" not in script  # a stranger's, or NeMo RL's own
    for line in (
        "export NX_HOSTS='gpu01 gpu02'",
        "export NX_HEAD_PORTS='9910 9901 8265'",
        "export NX_WORKER_PORTS='12000 12999'",
        "export NX_JOIN_S=60",
        "export NX_CPUS=16",
        "export NX_GPUS=8",
    ):
        assert line in script.splitlines()
    assert "canary" not in script and "@" not in script.replace('"$@"', "")
    assert [(folder / name).read_text() for name in ("head", "end")] == ["", ""]
    assert subprocess.run(["sh", "-n", folder / "node.sh"]).returncode == 0


def test_two_nodes_with_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    places = {"site__venv_dir": "/shared/venvs", "site__uv_cache_dir": "/shared/uv"}
    _, env, script = two_nodes(tmp_path, monkeypatch, site__python=None, **places)
    assert f'engine_python() {{ exec {uv} run python "$@"; }}' in script
    assert {"export NEMO_RL_VENV_DIR=/shared/venvs", "export UV_CACHE_DIR=/shared/uv"} <= set(script.splitlines())
    assert (env["NEMO_RL_VENV_DIR"], env["UV_CACHE_DIR"]) == ("/shared/venvs", "/shared/uv")


def test_modules_come_before_the_sites_own_lines() -> None:
    lines = setup_lines.setup({"modules": ["cuda/12.9", "uv"], "setup": ["ulimit -l unlimited"]})
    assert lines[-2:] == ["module load cuda/12.9 uv", "ulimit -l unlimited"]
    assert setup_lines.setup({"setup": None}) == []


def test_a_recorded_failure_is_told_in_three_parts(tmp_path: Path) -> None:
    assert nodes.failure(tmp_path) is None
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "failed").write_text("gpu02 did not join\nneeded\nleave it out\ngpu02: no such device\n")
    told = nodes.failure(tmp_path)
    assert told is not None and (told.found, told.why) == ("gpu02 did not join", "needed")
    assert told.fix == "leave it out\n  | gpu02: no such device"
    (tmp_path / "nodes" / "failed").write_text("only half\n")
    assert str(nodes.failure(tmp_path)).startswith("error: only half")


def test_the_documented_sites_are_whole() -> None:
    """Each example of docs/sites.md has keys of conf/site/default.yaml alone, and makes an entry."""
    known = yaml.safe_load((DOCS.parents[1] / "conf" / "site" / "default.yaml").read_text())
    blocks = [block.split("```")[0] for block in DOCS.read_text().split("```yaml\n")[1:]]
    sites = [yaml.safe_load(block) for block in blocks]
    assert [entry.kind(example) for example in sites] == list(entry.ENTRIES)
    for example in sites:
        assert set(example) - {"defaults"} <= set(known)
        assert set(example.get("container", {})) <= set(known["container"])


TOPOLOGY = """\
        GPU0    GPU1    NIC0    CPU Affinity    NUMA Affinity   GPU NUMA ID
GPU0     X      NV18    SYS     0-3             0               N/A
GPU1    NV18     X      SYS     4-7             1,2-17          N/A
GPU2    NV18    NV18    SYS                     9               N/A
NIC0    SYS     SYS      X
"""


def test_the_gpu_to_cpu_map_of_a_whole_node_is_ray_subs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the NUMA affinity of `nvidia-smi topo -m` and the kernel's list of that node's CPUs, before the engine."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n[ \"$*\" = 'topo -m' ] && cat <<'E'\n{TOPOLOGY}E\n")
    tool.chmod(0o755)
    for node, cpus in ((0, "0-3,8-11"), (1, "4-7")):
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus + "\n")
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "12")
    config = make_config(tmp_path, site__env={"NX_SYSFS": str(tmp_path / "sys"), "STANDIN_STEPS_PER_EPOCH": "1"})
    command = engine.command(config, make_context(config, tmp_path))
    done = subprocess.run(command.argv, env=command.env, cwd=command.cwd, capture_output=True, timeout=limit(30))
    assert done.returncode == 0, done.stderr
    file = Path(command.env["NRL_GPU_CPU_AFFINITY_FILE"])
    assert file.is_relative_to(command.env["RAY_TMPDIR"])
    assert file.read_text() == "0:0-3,8-11\n1:4-7\n"
    for folder in command.scratch:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("site", "slurm", "threads", "ray", "bound"),
    [
        ({}, {"SLURM_JOB_CPUS_PER_NODE": "96"}, "16", '{"CPU": 96}', True),
        ({}, {"SLURM_JOB_CPUS_PER_NODE": "96(x2),64", "SLURM_CPUS_PER_TASK": "8"}, "16", '{"CPU": 64}', True),
        ({"allocation": "share"}, {"SLURM_JOB_CPUS_PER_NODE": "40"}, "5", '{"CPU": 40}', False),
        ({"allocation": "share"}, {"SLURM_JOB_CPUS_PER_NODE": "256"}, "16", '{"CPU": 256}', False),
        ({"env": {"OMP_NUM_THREADS": 4}}, {"SLURM_JOB_CPUS_PER_NODE": "96"}, "4", '{"CPU": 96}', True),
    ],
)
def test_threads_cpus_and_binding_are_those_of_the_allocation(
    tmp_path: Path, site: dict[str, Any], slurm: dict[str, str], threads: str, ray: str, bound: bool
) -> None:
    config = make_config(tmp_path, cluster__gpus_per_node=8, **{f"site__{key}": value for key, value in site.items()})
    env = driver_env.environment(config, make_context(config, tmp_path), {"PATH": "/bin", **slurm})
    assert (env["OMP_NUM_THREADS"], env["RAY_OVERRIDE_RESOURCES"]) == (threads, ray)
    assert ("NRL_GPU_CPU_AFFINITY_FILE" in env) == bound


def test_without_slurm_ray_counts_cpus_itself_and_nothing_is_bound(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    env = driver_env.environment(config, make_context(config, tmp_path), {"PATH": "/bin"})
    assert not {"RAY_OVERRIDE_RESOURCES", "NRL_GPU_CPU_AFFINITY_FILE"} & set(env)
    assert 1 <= int(env["OMP_NUM_THREADS"]) <= 16
