"""The bring-up of Ray over several nodes, or in a slot of one: the files that its parts read, and why it failed.

The attempt starts one step with a task on each node (templates/node.sh, with templates/ray_node.py for what needs
Python); in a slot it is a child process. All of it lies in attempts/<n>/nodes, which every node sees.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nano_exp.engines import entry
from nano_exp.engines.slots import VLLM_PORT, Slot
from nano_exp.errors import UserError

JOIN_S = 300.0
PORTS: dict[str, Any] = {"gcs": 9900, "client": 9901, "dashboard": 8265, "workers": [10002, 11000]}


def write(
    attempt_dir: Path,
    config: Mapping[str, Any],
    hosts: Sequence[str],
    cpus: int,
    settings: Mapping[str, str],
    python: Sequence[str],
    driver: Sequence[str],
    open_files: int,
    allocation_start: float | None,
    slot: Slot | None = None,
) -> Path:
    """Make attempts/<n>/nodes and phases.json; return the script that the step runs on each node.

    Parameters
    ----------
    hosts: the allocation's nodes in Slurm's order; the first has Ray's head and the driver
    cpus: of a node, declared to Ray
    settings: the engine's variables, for inside a container; no secrets
    slot: of the one node, whose ports the run has to keep to
    """
    folder = attempt_dir / "nodes"
    folder.mkdir(exist_ok=True)
    engine = config.get("engine") or {}
    ports = {**PORTS, **(engine.get("ports") or {})}
    node_settings = {
        "NX_ATTEMPT": str(attempt_dir),
        "NX_HOSTS": " ".join(hosts),
        "NX_HEAD_HOST": hosts[0],
        "NX_GPUS": str(int(config["cluster"]["gpus_per_node"])),
        "NX_CPUS": str(cpus),
        "NX_HEAD_PORTS": f"{ports['gcs']} {ports['client']} {ports['dashboard']}",
        "NX_WORKER_PORTS": f"{ports['workers'][0]} {ports['workers'][1]}",
        "NX_DASHBOARD": "1" if engine.get("dashboard", True) else "0",
        "NX_JOIN_S": f"{float(engine.get('join_deadline_s') or JOIN_S):g}",
        "NX_OPEN_FILES": str(open_files),
    }
    if slot is not None:
        node_settings |= _in_slot(slot)
        (folder / "site").mkdir(exist_ok=True)
        shutil.copyfile(entry.TEMPLATES / "sitecustomize.py", folder / "site" / "sitecustomize.py")
    text = entry.script("node.sh", {**settings, **node_settings}, python, driver, config["site"])
    token = f"NX_TOKEN={secrets.token_hex(8)}"  # not exported before the set-up: what has it is what node.sh started
    path = folder / "node.sh"
    path.write_text(text.replace("set -u\n", f"set -u\n{token}\n", 1))
    for name in ("ray_node.py", "node_stacks.py", "ray_logs.py"):
        shutil.copyfile(entry.TEMPLATES / name, folder / name)
    # There from the start, so that a node that opens them again sees what another wrote: a shared file system may
    # remember for a minute that a file is not there.
    for name in ("head", "end", "stacks", "keep"):
        (folder / name).write_text("")
    phases = {"allocation": allocation_start, "attempt": time.time()}
    (attempt_dir / "phases.json").write_text(json.dumps(phases) + "\n")
    return path


def _in_slot(slot: Slot) -> dict[str, str]:
    """What of the settings is another one in a slot of a node."""
    low, high = slot.range("workers")
    return {
        "NX_RANK": "0",
        "NX_HEAD_PORTS": " ".join(str(slot.port(name)) for name in ("gcs", "client", "dashboard")),
        "NX_WORKER_PORTS": f"{low} {high}",
        "NX_NODE_PORTS": " ".join(str(slot.port(name)) for name in ("node", "objects", "environments")),
        "NX_AGENT_PORTS": " ".join(str(slot.port(name)) for name in ("http", "grpc", "metrics")),
        "NX_MEMORY": str(slot.mib * 2**20),
        VLLM_PORT: str(slot.vllm),
    }


def failure(attempt_dir: Path) -> UserError | None:
    """Why the nodes ended before the driver did, as one of them recorded it; None where none did."""
    try:
        lines = (attempt_dir / "nodes" / "failed").read_text(errors="replace").splitlines()
    except OSError:
        return None
    found, why, fix, *logs = [*lines, *[""] * (3 - len(lines))]
    return UserError(found, why, "\n  | ".join([fix, *logs]), code=1)
