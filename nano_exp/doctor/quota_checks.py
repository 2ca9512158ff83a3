"""What is left of this user's quotas, where the file systems' own commands tell."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from nano_exp import slurm
from nano_exp.doctor.check import SLURM_S, Said, check, fine, skipped, warning
from nano_exp.doctor.place import Place
from nano_exp.text import size


class Quota(NamedTuple):
    """One of a file system: used and allowed, in bytes or in files; `most` is the soft limit where there is one."""

    place: str
    unit: str
    used: int
    most: int


#: Less than this share of a quota left is told.
FEW = 0.05
#: A row of `quota -w -p` and of `lfs quota -q`: the file system; KiB used, soft and hard limit, grace; files likewise.
_ROW = re.compile(r"^ *(\S+)\s+(\d+)\*?\s+(\d+)\s+(\d+)\s+\S+\s+(\d+)\*?\s+(\d+)\s+(\d+)\s+\S+ *$", re.MULTILINE)


def parse(text: str) -> list[Quota]:
    """The limits that there are, of what such a command printed."""
    quotas = []
    for place, kib, soft, hard, files, soft_files, hard_files in _ROW.findall(text):
        quotas.append(Quota(place, "bytes", int(kib) * 1024, (int(soft) or int(hard)) * 1024))
        quotas.append(Quota(place, "files", int(files), int(soft_files) or int(hard_files)))
    return [one for one in quotas if one.most]


@check(SLURM_S)
def quotas(place: Place) -> Iterator[Said]:
    """Quotas of this user leave room, where `quota` or `lfs quota` tell them."""
    asked = [["quota", "-w", "-p"]]
    for path in {str(place.results), place.existing_path("site.hf_home") or str(place.results)}:
        system = place.facts.file_system(path)
        if system is not None and system.type == "lustre":
            asked.append(["lfs", "quota", "-q", "-u", slurm.this_user(), system.mount])
    limits = list(dict.fromkeys(one for argv in asked for one in parse(_printed(argv))))
    for one in limits:
        left = one.most - one.used
        if left < FEW * one.most:
            yield warning(
                f"{one.place}: {_amount(one.used, one.unit)} of a quota of {_amount(one.most, one.unit)}",
                "what is above it is refused as by a full disk",
                "nano-exp clean --help for results; or run.results=, site.hf_home= on another file system",
            )
        else:
            yield fine(f"{one.place}: {_amount(left, one.unit)} of {_amount(one.most, one.unit)} left")
    if not limits:
        yield skipped("no quota that `quota` or `lfs quota` tells")


def _amount(number: int, unit: str) -> str:
    return size(number) if unit == "bytes" else f"{number:,} files"


def _printed(argv: list[str]) -> str:
    """Whatever it ends with: `quota` ends with 1 above a limit."""
    if shutil.which(argv[0]) is None:
        return ""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=SLURM_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
