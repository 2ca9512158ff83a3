"""The folders that the runs use: shared with the nodes, of the release that is meant, and with room."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.cost import checkpoints, gigabytes, rollouts
from nano_exp.preflight.facts import existing
from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View

#: File systems that several hosts see, by the names that the kernel has for them.
SHARED = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "panfs", "orangefs", "glusterfs", "cifs", "smb", "afs")

#: And those that certainly only this host sees.
LOCAL = ("tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "squashfs")


@rule(place=True, engine=ANY_ENGINE, severity="warning")
def shared_folders(c: View) -> Iterator[Mistake]:
    """Results and models lie where every node sees them."""
    if not c.on_slurm or (c.facts.answers is None or c.facts.answers.nodes is None):
        return
    for key, path, why in (
        ("run.results", c.config["run"].get("results"), "the job on its node finds its config there, and writes back"),
        ("site.hf_home", c.site.get("hf_home"), "every node loads the model from there"),
    ):
        system = c.facts.file_system(str(path)) if path else None
        if system is not None and system.type in LOCAL:
            yield Mistake(
                (),
                f"{why}, and {system.mount} is of type {system.type}, which only this host sees unless it is exported",
                f"{key}=<a folder on a shared file system>; ignore=[shared_folders] where it is one",
                f"{key}={path}",
            )


@rule(place=True, severity="warning")
def checkout_is_release(c: View) -> Iterator[Mistake]:
    """The checkout is the release that its number says, not a branch that calls itself by it."""
    path, keys = c.site.get("checkout"), c.facts.keys(c.release)
    if not path or keys is None or "+" in c.release:
        return
    here, released = c.facts.commit(str(path)), keys.raw.commit
    if here and released and here != released:
        yield Mistake(
            (),
            f"{c.release} is {released[:12]}; what was changed since, in keys and defaults, is not known here",
            f"nano-exp recipes import {path}, which shows it; ignore=[checkout_is_release] for patches of your own; "
            f"or git -C {path} checkout {c.release}",
            f"site.checkout={path} is at {here[:12]}",
        )


@rule(place=True, severity="warning")
def disk_free(c: View) -> Iterator[Mistake]:
    """The checkpoints that are kept, and the rollouts that are logged, have room."""
    space, logged, runs = checkpoints(c), rollouts(c), max(1, sum(c.facts.new.values()))
    results = c.config["run"].get("results")
    saved_in = str(c.get("checkpointing.checkpoint_dir") or results)
    logs = str(c.get("logger.log_dir") or results)
    rolled = logged.most if logged is not None and logged.most is not None else 0
    together = space is not None and c.facts.file_system(saved_in) == c.facts.file_system(logs)
    if space is not None:
        words = f"a run keeps up to {space.count} checkpoints of about {gigabytes(space.each)}, {gigabytes(space.most)}"
        if together and rolled:
            words += f", and logs {gigabytes(rolled)} of rollouts"
        yield from _full(
            c,
            saved_in,
            space.most + (rolled if together else 0),
            words,
            runs,
            ("checkpointing.keep_top_k", "checkpointing.save_optimizer"),
            "checkpointing.keep_top_k=1, or checkpointing.checkpoint_dir=<a larger disk>",
        )
    if rolled and not together:
        words = f"a run logs up to {gigabytes(rolled)} of rollouts (train_data_step files, NeMo Gym's responses)"
        yield from _full(c, logs, rolled, words, runs, ("logger.log_dir",), "logger.log_dir=<a larger disk>")


def _full(c: View, folder: str, size: int, words: str, runs: int, keys: tuple[str, ...], fix: str) -> Iterator[Mistake]:
    free = c.facts.disk_free(folder)
    if free is not None and size * runs > free:
        yield Mistake(
            keys,
            words
            + (f", {runs} runs {gigabytes(size * runs)}" if runs > 1 else "")
            + f"; {existing(folder)} has {gigabytes(free)} free",
            f"{fix}; nano-exp clean frees what old runs need no more; quotas are not known here",
        )
