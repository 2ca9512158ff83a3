"""The stacks of an attempt's processes, and Ray's logs: what is read of them, ordered and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
from core_case import wait_for

from nano_exp.engines import Command, Context, nodes
from nano_exp.engines.templates import node_stacks, ray_logs
from nano_exp.job import stacks
from nano_exp.job.stacks import Process


def context(folder: Path) -> Context:
    attempt = folder / "run" / "attempts" / "1"
    attempt.mkdir(parents=True)
    return Context(folder / "run", attempt, 1, attempt / "nemo_rl.yaml")


def spied(*frames: str) -> str:
    idle = 'Thread 8 (idle): "ray"\n    loop (a.py:1)'
    return "\n".join(
        ["Process 7: python", 'Thread 7 (active): "MainThread"', *[f"    {f} (x.py:1)" for f in frames], "", idle]
    )


def worker(pid: int, *frames: str, words: str = "ray::MegatronPolicyWorker.train", host: str = "n1") -> Process:
    return Process(host, pid, words, spied(*frames), True)


def test_the_rank_that_is_elsewhere_comes_first() -> None:
    alike = [worker(pid, "wait", "all_reduce", "train") for pid in (11, 12, 13)]
    known = stacks.ranks(
        "\x1b[36m(MegatronPolicyWorker[rank=0] pid=11)\x1b[0m a\n(MegatronPolicyWorker[rank=3] pid=14, ip=10.0.0.2) b\n"
        "(VllmWorker[rank=1] pid=30, ip=10.0.0.1) c\n(VllmWorker[rank=5] pid=30, ip=10.0.0.2) d\n"
    )
    assert known == {11: 0, 14: 3}, "30 is a process on two nodes"
    driver = Process("n1", 5, "python run_grpo.py", spied("get", "main"), True)
    idle = worker(20, "run_task_loop", words="ray::VllmGenerationWorker")
    found = stacks.ordered([driver, idle, *alike, worker(14, "open", "load_batch", "train", host="n2")], known)
    assert [process.pid for process in found] == [14, 11, 12, 13, 5, 20]
    assert stacks.summary(found) == "rank 3 is in open, the other 3 of ray::MegatronPolicyWorker in wait"
    assert str(found[0]).startswith("--- rank 3, process 14 on n2: ray::MegatronPolicyWorker.train")
    assert stacks.summary(stacks.ordered(alike, {})) == ""
    two = stacks.ordered([worker(11, "barrier", "train"), worker(14, "open", "train")], known)
    assert stacks.summary(two).startswith("rank 3 is in open"), "one of two: the one that waits for no other"
    assert stacks.summary(stacks.ordered([worker(11, "a", "train"), worker(14, "b", "train")], known)) == ""


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Context, subprocess.Popen[bytes]]:
    """A driver that is found by its config, and a child of it that is not."""
    ctx = context(tmp_path)
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", code, str(ctx.config_path)], stdin=subprocess.PIPE)
    wait_for(lambda: len(node_stacks.processes([str(ctx.config_path)])) == 2, "the driver and its child")
    yield ctx, process
    process.communicate(b"\n")


def test_the_processes_are_the_driver_and_all_below_it(tree: tuple[Context, subprocess.Popen[bytes]]) -> None:
    ctx, process = tree
    assert node_stacks.processes([str(ctx.config_path)])[0] == process.pid
    assert node_stacks.processes([str(ctx.config_path) + "x"]) == []
    command = Command([sys.executable], {"PATH": "/usr/bin:/bin"}, Path("/"))
    how = stacks.dump(ctx, command, ctx.attempt_dir / "stacks.txt")
    text = (ctx.attempt_dir / "stacks.txt").read_text()
    assert how == "only what the kernel says: py-spy is not installed" or how == "2 processes by py-spy"
    assert f"process {process.pid} on" in text and "input()" in text
    assert "waits in" in text or "MainThread" in text


def test_py_spy_is_found_beside_the_interpreter_and_its_refusal_is_said(tmp_path: Path) -> None:
    spy = tmp_path / "py-spy"
    spy.write_text('#!/bin/sh\n[ "$3" = 1 ] || { echo "Permission Denied: ptrace" >&2; exit 1; }\necho "stack of $3"\n')
    spy.chmod(0o755)
    assert node_stacks.stack(str(spy), 1, 5.0) == ("stack of 1", "")
    assert node_stacks.stack(str(spy), 2, 5.0) == ("", "py-spy: Permission Denied: ptrace")
    found = node_stacks.look(str(spy), os.getpid(), float("inf"))
    assert not found["python"] and f"thread {os.getpid()}" in found["stack"]


def test_the_nodes_of_an_attempt_are_asked_by_a_file(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    folder = ctx.attempt_dir / "nodes"
    folder.mkdir()
    for name in ("n1.log", "n2.log", "stacks"):
        (folder / name).touch()

    def answer() -> None:
        word = wait_for(lambda: (folder / "stacks").read_text().strip(), "the question")
        one = {"host": "n2", "pid": 7, "words": "ray::A.f", "stack": spied("f"), "python": True, "why": ""}
        (folder / f"n2.stacks.{word}.json").write_text(json.dumps([one]))

    thread = threading.Thread(target=answer)
    thread.start()
    how = stacks.dump(ctx, Command(["x"], {}, Path("/")), ctx.attempt_dir / "stacks.txt", 0.5)
    thread.join()
    assert how == "1 processes by py-spy; n1 gave no stacks within 0 s"
    assert "process 7 on n2" in (ctx.attempt_dir / "stacks.txt").read_text()


def session(folder: Path, **logs: bytes) -> Path:
    below = folder / "ray" / "session_2026-01-01_00-00-00_1" / "logs"
    below.mkdir(parents=True)
    (folder / "ray" / "session_latest").symlink_to(below.parent)
    for name, content in logs.items():
        (below / f"{name}.out").write_bytes(content)
    return folder


def test_rays_logs_are_kept_short_and_without_secrets(tmp_path: Path) -> None:
    token = "canary-" + "x" * 20
    long = b"first line\n" + b"." * (ray_logs.HEAD + ray_logs.TAIL) + b"\nlast line"
    found = session(tmp_path, raylet=f"env HF_TOKEN={token}".encode(), runtime_env=b"hf_" + b"A" * 30, big=long)
    target = tmp_path / "kept.tgz"
    assert ray_logs.keep(found, target, {"HF_TOKEN": token}) == 3
    with tarfile.open(target) as archive:
        kept = {Path(m.name).stem: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    assert kept["raylet"] == b"env HF_TOKEN=[secret removed]"
    assert kept["runtime_env"] == b"[secret removed]"
    assert kept["big"].startswith(b"first line") and kept["big"].endswith(b"last line")
    assert len(kept["big"]) < ray_logs.HEAD + ray_logs.TAIL + 100
    assert ray_logs.keep(found, target, {}, most=100) == 2, "what is worth most comes first"


def test_where_ray_left_no_logs_nothing_is_written(tmp_path: Path) -> None:
    assert ray_logs.keep(tmp_path, tmp_path / "kept.tgz", {}) == 0
    assert list(tmp_path.iterdir()) == []


#: In the place of the engine's Python: Ray stays, the driver ends with an error once it is told to.
STUB = """#!/bin/sh
case "$*" in
  *ray_node.py*head|*ray_node.py*join) exec sleep 60 ;;
  *ray_node.py*drive*) while [ ! -e {stop} ]; do sleep 0.05; done; exit 3 ;;
esac
exec {python} "$@"
"""


@pytest.mark.parametrize(
    ("rank", "how_it_ends"), [(0, "fails"), (1, "fails"), (0, "stalls"), (0, "is cut off by Slurm")]
)
def test_a_node_gives_stacks_when_asked_and_keeps_rays_logs_of_a_failure(
    tmp_path: Path, rank: int, how_it_ends: str
) -> None:
    """node.sh itself, as on the first node and on another."""
    ctx, ray_tmp = context(tmp_path), tmp_path / "ray-tmp"
    session(ray_tmp, raylet=b"it failed")
    stub = tmp_path / "python"
    stub.write_text(STUB.format(stop=tmp_path / "stop", python=sys.executable))
    stub.chmod(0o755)
    config = {"cluster": {"gpus_per_node": 1}, "site": {}}
    driver = ["run_grpo.py", "--config", str(ctx.config_path)]
    settings = {"RAY_TMPDIR": str(ray_tmp)}
    script = nodes.write(ctx.attempt_dir, config, ["n0", "n1"], 1, settings, [str(stub)], driver, 1024, None)
    folder, env = script.parent, {**os.environ, "SLURM_PROCID": str(rank), "SLURMD_NODENAME": f"n{rank}"}
    marked = subprocess.Popen([sys.executable, "-c", "input()", str(ctx.config_path)], stdin=subprocess.PIPE)
    process = subprocess.Popen(["sh", str(script)], env=env, start_new_session=True)
    try:
        wait_for((folder / f"n{rank}.log").exists, "the node's part to start")
        how = stacks.dump(ctx, Command(["x"], {}, Path("/")), ctx.attempt_dir / "stacks.txt", 30.0)
        assert "gave no stacks" not in how
        assert f"process {marked.pid} on n{rank}: " in (ctx.attempt_dir / "stacks.txt").read_text()
        if how_it_ends == "fails":
            (tmp_path / "stop").touch()
            if rank:  # the first node's word
                (folder / "end").write_text("3\n")
            assert process.wait(30) == (3 if rank == 0 else 0)
        else:
            if how_it_ends == "stalls":
                stacks.end(ctx, Command(["x"], {}, Path("/")))
            process.terminate()
            assert process.wait(30) == 143
    finally:
        process.kill()
        marked.communicate(b"\n")
    assert not ray_tmp.exists()
    if how_it_ends == "is cut off by Slurm":
        assert not list(folder.glob("*.tgz")), "there is no time for that, and nothing to be read in them"
        return
    with tarfile.open(folder / f"n{rank}.ray-logs.tgz") as archive:
        assert [Path(member.name).name for member in archive] == ["raylet.out"]
