"""What the engine needs: its container or checkout, the models' folder, the model, its parser and data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from nano_exp import slurm
from nano_exp.doctor.check import SLURM_S, Said, check, error, fine, skipped, warning
from nano_exp.doctor.place import QUESTION_S, Place
from nano_exp.engines import entry
from nano_exp.nemo_rl import checkout as checkouts
from nano_exp.text import size

NO_MODEL = "name a model of NeMo RL's: nano-exp doctor model=nano_9b cluster=1n8g"
#: Room for the weights of one Nano model and its Megatron conversion, bytes.
HF_ROOM = 100 * 10**9


@check(SLURM_S)
def container(place: Place) -> Iterator[Said]:
    """What site.entry runs the engine in is there: Slurm's pyxis plugin, apptainer, and the image."""
    site = place.site
    kind = entry.kind(site)
    if kind == "bare":
        yield fine("site.entry=bare: no container")
        return
    entry.of(site)  # refuses an image that is not named or not there
    image = place.config.get("site.container.image")
    if kind == "pyxis":
        try:
            done = slurm.ask(["srun", "--help"], QUESTION_S)
        except slurm.NoAnswer as silence:
            yield error(f"site.entry=pyxis: {silence}", "pyxis is a plugin of srun", "launch from a login node")
            return
        if "--container-image" not in done.stdout + done.stderr:
            yield error(
                "site.entry=pyxis, and srun --help has no --container-image",
                "Slurm's pyxis plugin is not installed on this cluster",
                "site.entry=apptainer with a .sif image, or site.entry=bare with site.checkout",
            )
            return
        yield fine(f"pyxis, image {image}")
    elif shutil.which("apptainer") is None and not site.get("modules"):
        yield warning(
            "site.entry=apptainer, and there is no apptainer on this host's PATH",
            "the nodes may have it all the same; where a module brings it, the site has to load it",
            "site.modules=[apptainer] (module avail), or nano-exp doctor --on-node, which looks on a node",
        )
    else:
        yield fine(f"apptainer, image {image}")


@check()
def checkout(place: Place) -> Iterator[Said]:
    """NeMo RL's checkout is there and of the version that nemo_rl= says, and its Python starts."""
    path, wanted = place.existing_path("site.checkout"), place.config.get("nemo_rl.version")
    if not place.nemo_rl:
        if not path:
            yield skipped(NO_MODEL)
            return
        if not Path(path).is_dir():
            yield error(f"site.checkout={path}", "there is no such folder on this host", "site.checkout=/path/to/RL")
            return
        checkouts.refuse_other_version(Path(path), str(wanted or ""))
    for one in place.rules("nemo_rl_starts", "checkout_is_release", "gym_paths", "rebuilt_environments"):
        if not one.found.startswith("site.container."):  # `container` says it
            yield one
    if path and Path(path).is_dir():
        seen = checkouts.read_checkout(Path(path))
        at = f" at {seen.commit[:12]}" if seen.commit else ""
        yield fine(f"{path}: NeMo RL {seen.version or 'of no stated version'}{at}; nemo_rl= is {wanted}")


@check(SLURM_S)
def models_folder(place: Place) -> Iterator[Said]:
    """HF_HOME is there, with room, where the nodes see it."""
    path = place.existing_path("site.hf_home")
    if path is None:
        if place.on_slurm:
            yield warning(
                f"site.hf_home=null; HF_HOME is {place.environ.get('HF_HOME') or 'not set'} here",
                "each user's home, or nothing that all nodes see, would hold the models",
                "site.hf_home=/shared/hf, in the site's file for good",
            )
        else:
            yield fine(f"HF_HOME is {place.environ.get('HF_HOME') or '~/.cache/huggingface'}")
        return
    if not Path(path).is_dir():
        yield error(
            f"site.hf_home={path}",
            "there is no such folder on this host: models, data sets and conversions are looked for in it",
            f"mkdir -p {path}, on a file system that every node sees; or site.hf_home=/where/it/is",
        )
        return
    free = place.facts.disk_free(path)
    if free is not None and free < HF_ROOM:
        yield warning(
            f"site.hf_home={path} has {size(free)} free",
            f"weights and their Megatron conversion take up to {HF_ROOM / 1e9:.0f} GB a model",
            "site.hf_home=/a/larger/folder, or free space there; `hf cache scan` lists what lies in it",
        )
    for one in place.rules("shared_folders", ask=True):
        if "hf_home" in one.found:
            yield one
    system = place.facts.file_system(path)
    yield fine(
        f"{path}: {size(free or 0)} free" + (f" on {system.mount} ({system.type})" if system is not None else "")
    )


@check()
def model(place: Place) -> Iterator[Said]:
    """The model's weights are in the models' folder."""
    if not place.nemo_rl:
        yield skipped(NO_MODEL)
        return
    said = list(place.rules("model_there"))
    yield from said
    name = str(place.config.get("policy.model_name"))
    if not said:
        files = place.facts.model_files(name, place.existing_path("site.hf_home"))
        yield fine(f"{name}: {files.folder or 'fetched by the nodes (site.network=true)'}")


@check()
def tool_parser(place: Place) -> Iterator[Said]:
    """vLLM finds the model's tool parser, where the run calls tools."""
    if not place.nemo_rl or not place.config.get("env.should_use_nemo_gym"):
        yield skipped("the runs call no tools" if place.nemo_rl else NO_MODEL)
        return
    said = list(place.rules("tool_parser_file", "tool_parser_on"))
    yield from said or [fine("found, or vLLM's own")]


@check()
def data(place: Place) -> Iterator[Said]:
    """Data sets that are named by a file are there."""
    if not place.nemo_rl:
        yield skipped(NO_MODEL)
        return
    path = place.existing_path("site.checkout")
    if not (path and Path(path).is_dir()):
        yield skipped("paths of data are relative to site.checkout, which is not here")
        return
    yield from list(place.rules("data_files")) or [fine("files that are named are there")]
