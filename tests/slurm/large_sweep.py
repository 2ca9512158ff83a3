"""A sweep of three shapes in more arrays than one, interrupted in the middle, to its end on a mini cluster.

    python tests/slurm/large_sweep.py --points 1000 --max-array-size 101

brings up a cluster of its own and takes it down. An attempt of the stand-in costs about a second of a core, so that a
thousand points take a quarter of an hour on two cores; the test in test_arrays_slurm.py does the same with a few.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from launching import SMALL, Lab, assert_executed_once, opened
from minicluster_tool import MiniCluster, brought_up
from pace import limit

from nano_exp import files
from nano_exp.store import runs

#: GPUs a node: with them, runs of three shapes.
SHAPES = (1, 2, 3)
QUICK = (*SMALL, "grpo.max_num_steps=1")


@dataclass
class Watched:
    """What Slurm was seen to run of one launch, sampled twice a second.

    Parameters
    ----------
    most: the most tasks that were running at once
    most_shares: the largest sum of the throttles of arrays that may run; tasks of those with nothing waiting
    last: the largest throttle of an array at any time
    """

    most: int = 0
    most_shares: int = 0
    last: int = 0
    samples: int = 0
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    def start(self, cluster: MiniCluster) -> Watched:
        self._thread = threading.Thread(target=self._watch, args=(cluster,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self, cluster: MiniCluster) -> None:
        while not self._done.wait(0.5):
            said = cluster.run("squeue", "-h", "-o%i|%T|%r|%j", check=False).stdout
            self.look([line.split("|") for line in said.splitlines() if ".canary-" not in line])

    def look(self, lines: list[list[str]]) -> None:
        """One moment of the queue: the launch's arrays whose tasks do not wait for another array."""
        running: Counter[str] = Counter()
        shares: dict[str, int] = {}
        for job, state, reason, _ in lines:
            array = job.partition("_")[0]
            if state in ("RUNNING", "CONFIGURING"):
                running[array] += 1
            throttle = re.search(r"%(\d+)\]", job)
            if throttle and "Dependency" not in reason:
                shares[array] = int(throttle[1])
        self.samples += 1
        self.most = max(self.most, sum(running.values()))
        self.most_shares = max(self.most_shares, sum({**running, **shares}.values()))
        self.last = max(self.last, *shares.values(), 0)


def interrupted_sweep(lab: Lab, seeds: int, parallel: int, seconds: float) -> Watched:
    """Launch seeds x three shapes; kill the launcher between two arrays, cancel jobs, launch again, wait for the end.

    Returns
    -------
    what was seen of the second launch, which has a canary and at most `parallel` runs at once
    """
    gpus = ",".join(map(str, SHAPES))
    wish = (*QUICK, f"grpo.seed=range(1,{seeds + 1})", f"cluster.gpus_per_node={gpus}", "run.name=large")
    total = seeds * len(SHAPES)
    lab.kill_at("subprocess.Popen array-2.sbatch", *wish, f"parallel={parallel}")
    first = lab.launches()[0]
    assert sorted(runs.jobs_of(lab.results, first.name)) == [0, 1]  # the rest was never sent
    arrays = len(list(first.glob("array-*.sbatch")))
    assert arrays > len(SHAPES), "every shape has to be more than one array"
    print(f"{total} runs in {arrays} arrays; the launcher was killed after two of them", flush=True)
    lab.wait_for("the first runs are done", lambda: done(lab) >= 1, seconds)
    job = runs.jobs_of(lab.results, first.name)
    lab.tool("cancel", "--yes", *ids(lab, first, 0)[-2:])
    lab.cluster.run("scancel", job[1])
    lab.wait_queue_empty(seconds)
    before = done(lab)
    print(f"{before} done, the rest of two arrays cancelled", flush=True)

    watched = Watched().start(lab.cluster)
    began = time.monotonic()
    said = lab.launch(*wish, f"parallel={parallel}", "canary=true", "fail_fast=1", "yes=true").text
    print(f"launched again in {time.monotonic() - began:.1f} s", flush=True)
    assert f"{total - before} to submit" in said, said
    shown = 0.0
    while lab.queued():
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            print(f"{done(lab)} of {total} done after {shown - began:.0f} s", flush=True)
        assert time.monotonic() - began < limit(seconds), lab.queued()
        time.sleep(1)
    watched.stop()
    for run in lab.runs():
        assert_done(run)
    assert len(lab.runs()) == total
    assert {row["state"] for row in lab.status().values()} == {"done"}
    assert "nothing to submit" in lab.launch(*wish).text
    print(f"all {total} done {time.monotonic() - began:.0f} s after the second launch; {watched}", flush=True)
    return watched


def ids(lab: Lab, launch: Path, array: int) -> list[str]:
    """The runs of an array of a launch."""
    return [Path(folder).name for folder in files.read_json(launch / "manifest.json")["arrays"][array]["runs"]]


def done(lab: Lab) -> int:
    """How many runs have ended as done, by their files."""
    ends = lab.results.glob("large/r*/attempts/[0-9]*/end.json")
    return sum('"kind": "done"' in path.read_text() for path in ends)


def assert_done(run: runs.Run) -> None:
    """Every step once, whatever was cancelled on the way."""
    tried = [a.end and a.end["kind"] for a in runs.attempts(run.dir)]
    assert tried and tried[-1] == "done" and tried.count("done") == 1, f"{run.id}: {tried}"
    if len(tried) == 1:
        assert_executed_once(run, steps=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1000, help="rounded up to three shapes of as many runs")
    parser.add_argument("--max-array-size", type=int, default=101)
    parser.add_argument("--parallel", type=int, default=12, help="runs at once")
    given = parser.parse_args()
    seeds = -(-given.points // len(SHAPES))
    with (
        tempfile.TemporaryDirectory() as folder,
        brought_up("--fast", "--max-array-size", str(given.max_array_size)) as cluster,
        opened(cluster, Path(folder) / "launch") as lab,
    ):
        watched = interrupted_sweep(lab, seeds, given.parallel, seconds=60 + 5 * given.points)
        assert watched.most <= given.parallel and watched.most_shares <= given.parallel, watched
        lab.report = lambda: ""  # type: ignore[method-assign]  # of a thousand runs; all is well
    return 0


if __name__ == "__main__":
    sys.exit(main())
