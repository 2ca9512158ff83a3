"""slurm/minicluster: a real Slurm of two hosts comes up, does what a cluster does, is repaired, and leaves nothing."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from minicluster_tool import TOOL, MiniCluster, brought_up, new_state, tool, traces
from pace import limit

pytestmark = pytest.mark.slurm


# --- what the cluster does -------------------------------------------------------------------------------------------


def test_srun_sees_two_hosts_with_eight_gpus_each(minicluster: MiniCluster) -> None:
    script = "echo $(hostname) $(hostname -I) $CUDA_VISIBLE_DEVICES $(getent hosts $(hostname) | cut -d' ' -f1)"
    lines = minicluster.run("srun", "-N2", "-n2", "--gres=gpu:8", "bash", "-c", script).stdout.splitlines()
    hosts = {line.split()[0]: line.split()[1:] for line in lines}
    assert set(hosts) == {"mini1", "mini2"}
    assert {row[1] for row in hosts.values()} == {"0,1,2,3,4,5,6,7"}
    assert len({row[0] for row in hosts.values()}) == 2  # addresses of their own
    assert all(row[0] == row[2] for row in hosts.values())  # and names that resolve to them


def test_an_array_runs_and_is_in_the_accounts(minicluster: MiniCluster, tmp_path: Path) -> None:
    job = minicluster.sbatch(
        "--array=0-5",
        "--gres=gpu:1",
        "--account=research",
        f"--output={tmp_path}/%a",
        "--wrap=echo $SLURM_ARRAY_TASK_ID",
    )

    def states() -> list[str]:
        rows = minicluster.run("sacct", "-nXP", "-j", job, "--format=jobid,state,account").stdout.splitlines()
        return sorted(rows)

    minicluster.wait_for("six tasks in sacct", lambda: [f"{job}_{n}|COMPLETED|research" for n in range(6)] == states())
    assert [(tmp_path / str(n)).read_text() for n in range(6)] == [f"{n}\n" for n in range(6)]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--account=nobodys", "Invalid account"),
        ("--partition=nowhere", "Invalid partition name"),
        ("--qos=none_such", "Invalid qos"),
        ("--nodes=3", "Node count specification invalid"),
        ("--gres=gpu:9", "Requested node configuration is not available"),
    ],
)
def test_slurm_refuses(minicluster: MiniCluster, flag: str, words: str) -> None:
    done = minicluster.run("sbatch", flag, "--wrap=true", check=False)
    assert done.returncode != 0
    assert words in done.stderr


def test_a_requeued_job_starts_again_soon(minicluster: MiniCluster, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    job = minicluster.sbatch(f"--output={tmp_path}/log", f"--wrap=echo $SLURM_RESTART_COUNT >> {starts}; sleep 600")
    minicluster.wait_for("first start", starts.exists)
    began = time.monotonic()
    minicluster.run("scontrol", "requeue", job)
    minicluster.wait_for("second start", lambda: len(starts.read_text().splitlines()) == 2)
    assert time.monotonic() - began < limit(15)
    assert starts.read_text().split() == ["1"]  # Slurm counts from the first restart
    minicluster.run("scancel", job)


def test_the_urgent_partition_preempts_and_the_job_comes_back(minicluster: MiniCluster, tmp_path: Path) -> None:
    everything = ("-N2", "--exclusive", "--gres=gpu:8", f"--output={tmp_path}/%j")
    low = minicluster.sbatch(*everything, "--wrap=sleep 600")
    minicluster.wait_for("the low job runs", lambda: minicluster.job(low)["JobState"] == "RUNNING")
    high = minicluster.sbatch(*everything, "--partition=urgent", "--wrap=sleep 1")
    minicluster.wait_for("the urgent job is done", lambda: minicluster.job(high)["JobState"] == "COMPLETED")
    minicluster.wait_for("the low job again", lambda: minicluster.job(low)["JobState"] == "RUNNING")
    assert minicluster.job(low)["Restarts"] == "1"
    minicluster.run("scancel", low)


# --- up, status, and faults on purpose -------------------------------------------------------------------------------


def test_up_again_says_so_and_other_settings_are_refused(minicluster: MiniCluster) -> None:
    before = json.loads(minicluster.tool("status", "--json").stdout)
    assert before["state"] == "up"
    assert [row["state"] for row in before["nodes"].values() if row["gres"].startswith("gpu:h100:8")]
    assert "is up already" in minicluster.tool("up", "--fast").stdout
    done = minicluster.tool("up", "--fast", "--no-accounting", "--max-array-size=5000", check=False)
    assert done.returncode == 2
    assert "accounting: it has True, you asked for False" in done.stderr
    assert "max_array_size: it has 1001, you asked for 5000" in done.stderr
    assert json.loads(minicluster.tool("status", "--json").stdout)["daemons"] == before["daemons"]


def test_killed_daemons_are_seen_and_started_again_under_a_running_job(
    minicluster: MiniCluster, tmp_path: Path
) -> None:
    job = minicluster.sbatch(f"--output={tmp_path}/log", "--nodelist=mini1", "--wrap=sleep 600")
    minicluster.wait_for("the job runs", lambda: minicluster.job(job)["JobState"] == "RUNNING")
    minicluster.wait_until_saved(job)
    for name in ("slurmctld", "slurmd:mini1"):
        minicluster.tool("kill", name)
    done = minicluster.tool("status", check=False)
    assert done.returncode == 4
    assert "slurmctld is not running" in done.stdout
    assert "slurmd:mini1 is not running" in done.stdout
    minicluster.tool("start", "slurmctld")
    minicluster.tool("up", "--fast")
    assert minicluster.tool("status", check=False).returncode == 0
    assert minicluster.job(job)["JobState"] == "RUNNING"
    assert minicluster.job(job)["Restarts"] == "0"
    minicluster.run("scancel", job)


def test_a_cut_node_is_lost_and_its_job_starts_on_the_other(minicluster: MiniCluster, tmp_path: Path) -> None:
    job = minicluster.sbatch(f"--output={tmp_path}/log", "-N1", "--exclusive", "--wrap=sleep 600")
    minicluster.wait_for("the job runs", lambda: minicluster.job(job)["JobState"] == "RUNNING")
    lost = minicluster.job(job)["BatchHost"]
    minicluster.tool("node-down", lost)
    try:
        minicluster.wait_for("a restart", lambda: minicluster.job(job)["Restarts"] == "1")
        minicluster.wait_for("it runs again", lambda: minicluster.job(job)["JobState"] == "RUNNING")
        assert minicluster.job(job)["BatchHost"] != lost
    finally:
        minicluster.tool("node-up", lost)
    minicluster.run("scancel", job)
    minicluster.wait_for(
        "both nodes idle", lambda: minicluster.run("sinfo", "-hN", "-o%T").stdout.split() == ["idle"] * 4
    )


def test_a_file_system_mounted_under_scratch_is_seen_on_the_nodes(minicluster: MiniCluster) -> None:
    disk = minicluster.state / "scratch" / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        fill = f"head -c 1000000 /dev/zero > {disk}/file"
        done = minicluster.run("srun", "-N1", "bash", "-c", fill, check=False)
        assert "No space left on device" in done.stderr
        assert (disk / "file").stat().st_size <= 65536
    finally:
        subprocess.run(["umount", disk], check=True)


# --- without accounting, beside the other one ------------------------------------------------------------------------


def test_without_accounting_jobs_run_and_sacct_fails(minicluster_no_accounting: MiniCluster) -> None:
    assert minicluster_no_accounting.run("srun", "hostname").stdout.startswith("mini")
    done = minicluster_no_accounting.run("sacct", check=False)
    assert done.returncode != 0
    assert "accounting storage is disabled" in done.stderr
    refused = minicluster_no_accounting.tool("kill", "slurmdbd", check=False)
    assert refused.returncode == 2
    assert "--no-accounting" in refused.stderr


def test_two_clusters_do_not_see_each_other(
    minicluster: MiniCluster, minicluster_no_accounting: MiniCluster, tmp_path: Path
) -> None:
    job = minicluster.sbatch("--hold", "--job-name=only_here", f"--output={tmp_path}/log", "--wrap=true")
    assert "only_here" in minicluster.run("squeue", "-h", "-o%j").stdout
    assert "only_here" not in minicluster_no_accounting.run("squeue", "-h", "-o%j").stdout
    minicluster.run("scancel", job)


# --- crashes, reboots, and what is left ------------------------------------------------------------------------------


def test_a_reboot_is_repaired_and_down_leaves_nothing(minicluster: MiniCluster) -> None:
    """A reboot leaves the state folder alone: no process, no namespace, no link. A job that waited is still there."""
    with brought_up("--fast", "--no-accounting", "--max-array-size=5000") as cluster:
        # A stray that no longer belongs to a job. Its job's number must be on the disk before the reboot: a controller
        # that forgot it gives the number out again, and the nodes refuse it: they saw its credential revoked.
        cluster.run("srun", "bash", "-c", "setsid sleep 1000 >/dev/null 2>&1 & sleep 0.2")
        held = cluster.sbatch("--hold", "--output=/dev/null", "--array=4999", "--wrap=true")
        cluster.wait_until_saved(held)
        stop_everything(cluster.state)
        assert cluster.tool("status", check=False).returncode == 4
        cluster.tool("up", "--fast", "--no-accounting", "--max-array-size=5000")
        assert f"{held}_[4999]" in cluster.run("squeue", "-h", "-r", "-o%i").stdout.replace(
            f"{held}_4999", f"{held}_[4999]"
        )
        assert len(set(cluster.run("srun", "-N2", "hostname").stdout.split())) == 2
        stray = cluster.run("srun", "bash", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!").stdout.strip()
        assert alive(stray)
    assert not alive(stray)
    assert "is down already" in tool("down", "--state", str(cluster.state), check=True).stdout


def alive(pid: str) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def stop_everything(state: Path) -> None:
    """What a reboot does to a cluster."""
    for line in traces(state):
        kind, _, name = line.partition(" ")
        if kind == "process":
            subprocess.run(["kill", "-9", name.split(":")[0]], capture_output=True)
        elif kind == "mount":
            subprocess.run(["umount", "--lazy", name.split()[4]], check=True)
    for line in traces(state):
        kind, _, name = line.partition(" ")
        if kind == "namespace":
            subprocess.run(["ip", "netns", "del", name], check=True)
        elif kind == "link":
            subprocess.run(["ip", "link", "del", name], capture_output=True)


@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.2, 3.0])
def test_an_up_killed_on_the_way_is_removed_by_down(minicluster: MiniCluster, seconds: float) -> None:
    state = new_state()
    process = subprocess.Popen([TOOL, "up", "--fast", "--state", str(state)], stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    tool("down", "--state", str(state), check=True)
    assert traces(state) == []


def test_down_finds_a_cluster_whose_folder_was_deleted(minicluster: MiniCluster) -> None:
    state = new_state()
    assert tool("up", "--fast", "--no-accounting", "--state", str(state)).returncode == 0
    subprocess.run(["umount", state / "scratch"], check=True)
    shutil.rmtree(state)
    assert traces(state)
    tool("down", "--state", str(state), check=True)
    assert traces(state) == []


def test_a_folder_of_something_else_is_left_alone(minicluster: MiniCluster, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for command in ("up", "down"):
        done = tool(command, "--state", str(tmp_path))
        assert done.returncode == 2
        assert "not a mini cluster's" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_up_says_all_that_is_missing_before_it_changes_anything(minicluster: MiniCluster) -> None:
    """As nobody, and with two programs hidden from it."""
    with tempfile.TemporaryDirectory() as folder:
        copy, state = Path(folder) / "slurm", Path(folder) / "state"
        shutil.copytree(TOOL.parent, copy)
        Path(folder).chmod(0o755)
        hide = [f"mount --bind /dev/null {shutil.which(p, path='/usr/sbin')}" for p in ("slurmctld", "mariadbd")]
        as_nobody = f"exec setpriv --reuid=65534 --regid=65534 --clear-groups {copy}/minicluster up --state {state}"
        script = " && ".join([*hide, as_nobody])
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
        assert done.returncode == 2
        assert "not root (user id 65534)" in done.stderr
        assert "missing: slurmctld, mariadbd" in done.stderr
        assert "apt-get install -y --no-install-recommends slurm-wlm mariadb-server" in done.stderr
        assert not state.exists()


def test_a_daemon_that_cannot_start_is_named_with_its_log(minicluster_no_accounting: MiniCluster) -> None:
    conf = minicluster_no_accounting.state / "slurm.conf"
    text = conf.read_text()
    minicluster_no_accounting.tool("kill", "slurmctld")
    conf.write_text(text + "NoSuchParameter=1\n")
    try:
        done = minicluster_no_accounting.tool("start", "slurmctld", check=False)
        assert done.returncode == 1
        assert "slurmctld exited with code 1" in done.stderr
        assert "NoSuchParameter" in done.stderr
    finally:
        conf.write_text(text)
        minicluster_no_accounting.tool("start", "slurmctld")
