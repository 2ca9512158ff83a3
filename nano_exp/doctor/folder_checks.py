"""The results folder: writable, shared, with room and inodes, and its server's clock."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nano_exp import files
from nano_exp.doctor.check import SLURM_S, Said, check, error, fine, refusal, skipped, warning
from nano_exp.doctor.place import Place
from nano_exp.doctor.slurm_checks import skew
from nano_exp.preflight.facts import existing
from nano_exp.text import size

#: A run's folder has about this many files with its logs; a sweep has a thousand runs.
FEW_INODES = 100_000
FEW_BYTES = 10 * 2**30


@check(SLURM_S)
def results(place: Place) -> Iterator[Said]:
    """The results folder can be written, is shared with the nodes, and has room and inodes."""
    folder = existing(str(place.results))
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".nano-exp-doctor-"):
            pass
    except OSError as problem:
        yield refusal(files.unwritable(place.results, problem))
        return
    free, inodes = room(folder)
    if free < FEW_BYTES:
        yield warning(
            f"{folder} has {size(free)} free",
            "logs and checkpoints are written there",
            "nano-exp clean --help, or run.results=/a/larger/folder (NANO_EXP_RESULTS for good)",
        )
    if inodes is not None and inodes < FEW_INODES:
        yield warning(
            f"{folder} has {inodes:,} inodes free",
            "each run makes some hundred files, and a file system without inodes refuses them like a full disk",
            "nano-exp clean --help, or run.results=/another/file/system",
        )
    yield from place.rules("disk_free")
    for one in place.rules("shared_folders", ask=True):
        if "run.results" in one.found:
            yield one
    left = f", {inodes:,} inodes" if inodes is not None else ""
    system = place.facts.file_system(str(folder))
    kind = f" on {system.mount} ({system.type})" if system is not None else ""
    yield fine(f"{place.results}: {size(free)} free{left}{kind}")


def room(folder: Path) -> tuple[int, int | None]:
    """Bytes and inodes that this user may still take; None for a file system that counts no inodes."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None


@check()
def file_clock(place: Place) -> Iterator[Said]:
    """The clock of the results' file system and this host's agree."""
    folder = existing(str(place.results))
    try:
        before = time.time()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".nano-exp-doctor-") as file:
            file.write(b"x")
            file.flush()
            stamped = stamp(file.fileno())
        after = time.time()
    except OSError:
        yield skipped(f"{folder} cannot be written")
        return
    ahead = stamped - before if stamped < before else max(0.0, stamped - after)
    yield skew(f"the clock of {folder}", ahead, 0.1)


def stamp(descriptor: int) -> float:
    """When the file system says that a file was written, Unix seconds."""
    return os.fstat(descriptor).st_mtime


@check()
def gpus_here(place: Place) -> Iterator[Said]:
    """GPUs of this machine, where runs stay on it."""
    if place.on_slurm or not place.nemo_rl:
        yield skipped("GPUs of a node: --on-node" if place.on_slurm else "the embedded engine needs none")
        return
    if Path("/dev/nvidia0").exists():
        yield fine("NVIDIA's driver is loaded")
    else:
        yield error("no /dev/nvidia0", "cluster=local runs NeMo RL on this machine, and it has no GPU", "cluster=1n8g")
