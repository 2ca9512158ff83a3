"""How a site enters the engine: bare, pyxis or apptainer. Pure: a site's settings in, arguments and script text out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nano_exp.errors import UserError

ENTRIES = ("bare", "pyxis", "apptainer")
TEMPLATES = Path(__file__).parent / "templates"
WORKDIR = "/opt/nemo-rl"  # docker/Dockerfile at v0.7.0: where NeMo RL's own image has its checkout


@dataclass(frozen=True)
class Entry:
    """A site's way into the engine.

    Parameters
    ----------
    kind: bare, pyxis or apptainer
    image: the container's image, as the site's tool takes it; None for bare
    workdir: the checkout as the engine sees it
    mounts: HOST:CONTAINER[:OPTIONS], without duplicates
    flags: further flags of the container's tool
    srun: further flags of every step
    """

    kind: str
    image: str | None
    workdir: str
    mounts: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    srun: tuple[str, ...] = ()

    @property
    def contained(self) -> bool:
        return self.kind != "bare"


@dataclass(frozen=True)
class Step:
    """The step that starts one task on each of `nodes`; CPUs and GPUs are a node's, gpus 0 asks for none.

    Parameters
    ----------
    gres: the word of --gres that GPUs are asked for by, `gpu:h100`; "" for --gpus-per-node
    """

    nodes: int
    cpus: int
    gpus: int
    gres: str = ""
    flags: tuple[str, ...] = field(default=())


def kind(site: Mapping[str, Any]) -> str:
    """site.entry; UserError for another word than those in ENTRIES."""
    name = str(site.get("entry") or "bare")
    if name not in ENTRIES:
        raise UserError(
            f"site.entry={name}",
            "there is no such way into the engine",
            f"one of {', '.join(ENTRIES)}: site.entry=bare",
        )
    return name


def of(site: Mapping[str, Any], run_folders: Iterable[str | None] = ()) -> Entry:
    """The site's entry.

    Parameters
    ----------
    run_folders: folders that the run needs at the same path inside; None is skipped

    Raises
    ------
    UserError: an unknown kind, or a container without an image or with one that is not there
    """
    name, container = kind(site), site.get("container") or {}
    checkout = site.get("checkout")
    srun = tuple(map(str, site.get("srun") or ()))
    if name == "bare":
        return Entry(name, None, str(checkout or ""), srun=srun)
    image = container.get("image")
    if not image:
        raise UserError(
            f"site.entry={name} and site.container.image=null",
            "the engine runs inside a container",
            "site.container.image=/path/to/nemo-rl.sqsh (or .sif, or a registry's name as your site's tool takes it)",
        )
    if re.match(r"(/|\./|~)", str(image)) and not Path(str(image)).expanduser().exists():
        raise UserError(
            f"site.container.image={image}",
            "there is no such file on this host",
            "site.container.image=/path/to/nemo-rl.sqsh",
        )
    workdir = str(checkout or container.get("workdir") or WORKDIR)
    mounts = merge_mounts(container.get("mounts") or (), [checkout, *run_folders])
    return Entry(name, str(image), workdir, mounts, tuple(map(str, container.get("flags") or ())), srun)


def merge_mounts(site_mounts: Iterable[str], run_folders: Iterable[str | None]) -> tuple[str, ...]:
    """The site's mounts, then those of `run_folders` that none of them (or of those before) holds already.

    A folder is held by a mount of itself or of a folder above it at the same path; the site's mount of something else
    at that path wins too: it is what the site wants to be seen there.
    """
    mounts = list(dict.fromkeys(str(mount) for mount in site_mounts))
    inside = [mount.split(":")[1] if ":" in mount else mount for mount in mounts]
    same = [path for mount, path in zip(mounts, inside, strict=True) if mount.split(":")[0] == path]
    folders = sorted({str(path) for path in run_folders if path}, key=lambda path: (path.count("/"), path))
    for path in folders:
        if path in inside or any(Path(path).is_relative_to(above) for above in same):
            continue
        mounts.append(f"{path}:{path}")
        inside.append(path)
        same.append(path)
    return tuple(mounts)


def container_argv(entry: Entry) -> list[str]:
    """What stands before a command that apptainer runs; nothing for the other kinds."""
    if entry.kind != "apptainer":
        return []
    binds = [word for mount in entry.mounts for word in ("--bind", mount)]
    return ["apptainer", "exec", "--nv", *binds, "--pwd", entry.workdir, *entry.flags, str(entry.image)]


def step_argv(entry: Entry, step: Step, command: Sequence[str]) -> list[str]:
    """The srun that starts `command` once on each node. --overlap: or it waits for the batch host's own processes."""
    argv = ["srun", "--overlap", f"--nodes={step.nodes}", f"--ntasks={step.nodes}", "--ntasks-per-node=1"]
    # By itself a step gets one CPU, and memory by its CPUs where the cluster gives it so: 0 is all of the job's.
    argv += [f"--cpus-per-task={step.cpus}", "--mem=0"]
    if step.gpus:  # named too: where a partition gives whole nodes, a step that asks for no GPUs sees one
        argv.append(f"--gres={step.gres}:{step.gpus}" if step.gres else f"--gpus-per-node={step.gpus}")
    # --export: a user's SLURM_EXPORT_ENV would take the environment away. --mpi: no PMI server is needed.
    argv += ["--mpi=none", "--export=ALL", "--kill-on-bad-exit=1", "--unbuffered", *entry.srun]
    if entry.kind == "pyxis":
        argv += [f"--container-image={entry.image}", f"--container-mounts={','.join(entry.mounts)}"]
        argv += ["--no-container-mount-home", f"--container-workdir={entry.workdir}", *entry.flags]
    return [*argv, *container_argv(entry), *command]


def script(template: str, settings: Mapping[str, str], python: Sequence[str], driver: Sequence[str], site: Any) -> str:
    """A template of `templates/` with its placeholders filled.

    Parameters
    ----------
    settings: exported variables; they must hold no secret, for they stand in a file
    python: the engine's interpreter, one or more words
    driver: the training script with its arguments
    site: its node_setup lines go in as they are
    """
    exports = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    runner = f'engine_python() {{ exec {shlex.join(python)} "$@"; }}'
    text = (TEMPLATES / template).read_text()
    text = text.replace("@SETTINGS@", "\n".join([*exports, runner]))
    text = text.replace("@AFFINITY@\n", (TEMPLATES / "affinity.sh").read_text())
    text = text.replace("@NODE_SETUP@", "\n".join(map(str, site.get("node_setup") or [":"])))
    return text.replace("@DRIVER@", shlex.join(driver))
