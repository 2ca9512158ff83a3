"""The model in Megatron's format, which the first run that trains it with Megatron would make on its GPUs."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nano_exp.errors import UserError
from nano_exp.nemo_rl import caches
from nano_exp.nemo_rl.caches import Cache
from nano_exp.prepare import command_line
from nano_exp.prepare.step import MISSING, PARTLY, THERE, Look, Step
from nano_exp.slurm import client
from nano_exp.text import Say

SCRIPT = Path(__file__).with_name("to_megatron.py")
WORKER = "MegatronPolicyWorker"
#: Of policy.megatron_cfg, what import_model_from_hf_name reads.
LAYOUT = (
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"),
    *("expert_model_parallel_size", "expert_tensor_parallel_size", "num_layers_in_first_pipeline_stage"),
    *("num_layers_in_last_pipeline_stage", "pipeline_dtype", "sequence_parallel", "gradient_accumulation_fusion"),
)


@dataclass(frozen=True)
class Conversion(Step):
    """A conversion that runs share.

    Parameters
    ----------
    cache: where it lies, as runs see it
    model: policy.model_name
    layout: of policy.megatron_cfg, as JSON; "null": on one GPU
    overrides: policy.hf_config_overrides, as JSON
    gpus: of the node that makes it
    environments: where the workers' environments lie
    again: this very command, to type or to send
    options: sbatch's, of the site
    """

    name = "conversion"
    cache: caches.Conversion
    model: str
    layout: str
    overrides: str
    gpus: int
    environments: Path | None
    again: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def look(self) -> Look:
        entries = self.cache.entries()
        if not self.cache.lacks([name for name, whole in entries.items() if whole]):
            return Look(THERE, str(self.cache.path))
        if self.cache.again and entries.get(self.cache.name):
            return Look(PARTLY, f"{self.cache.path}, and force_reconvert_from_hf=true has each run make it anew")
        torn = f"{self.cache.path} was not finished: no {caches.LAST_FILE}"
        return Look(PARTLY, torn) if entries else Look(MISSING, f"no {self.cache.path}")

    def command(self) -> str:
        """A job of one node that makes it, and what it executes."""
        return f"sbatch {shlex.join(self._sbatch())}\nor on a node with GPUs: {shlex.join(self.again)}"

    def _sbatch(self) -> list[str]:
        return [*self.options, f"--wrap={shlex.join(self.again)}"]

    def hindered(self) -> str:
        if self.place.contained:
            return "the container's environment makes it: the first run does, and the others wait for it"
        if self.cache.again:
            return "policy.megatron_cfg.force_reconvert_from_hf=false keeps it"
        if self._python() is None:
            return f"the environment of {WORKER} makes it: the step workers first"
        return "" if _gpus_here() else "it takes a node with GPUs: --submit sends this as a job"

    def _python(self) -> Path | None:
        folders = sorted(self.environments.glob(f"*.{WORKER}")) if self.environments else []
        return next((path / "bin" / "python" for path in folders if (path / "bin" / "python").exists()), None)

    def caches(self) -> list[Cache]:
        """As runs lock it."""
        return [self.cache]

    def make(self, say: Say) -> None:
        python = self._python()
        assert python is not None and self.place.checkout is not None
        count = 1 if self.layout == "null" else self.gpus
        argv = [str(python), "-m", "torch.distributed.run", f"--nproc-per-node={count}", str(SCRIPT)]
        argv += [self.model, str(self.cache.path), self.layout, self.overrides]
        settings = {**dict(self.place.settings), "HF_HOME": str(self.place.hf_home)}
        settings["PYTHONPATH"] = str(self.place.checkout)
        command_line.run(argv, say, self.place.checkout, settings, shlex.join(self.again))

    def submit(self) -> str:
        """Send the job that makes it; its number. Raises UserError."""
        try:
            done = client.run(["sbatch", "--parsable", *self._sbatch()])
        except client.NoAnswer as error:
            raise UserError(f"no job was sent: {error}", "Slurm sends it", self.command()) from error
        if done.returncode:
            raise UserError(f"sbatch refused: {done.stderr.strip()}", "it makes the conversion", self.command(), 1)
        return done.stdout.strip().partition(";")[0]


def layout(megatron: dict[str, object], gpus: int) -> str:
    """policy.megatron_cfg for the conversion, as JSON: of the run's layout where a node's GPUs hold it, else of one."""
    sizes = [int(str(megatron.get(key) or 1)) for key in LAYOUT[:3]]
    ranks = sizes[0] * sizes[1] * sizes[2]
    experts = int(str(megatron.get(LAYOUT[3]) or 1)) * int(str(megatron.get(LAYOUT[4]) or 1)) * sizes[1]
    if gpus % ranks or gpus % experts:
        return "null"
    return json.dumps({key: megatron.get(key) for key in LAYOUT}, sort_keys=True)


def _gpus_here() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "GPU " in done.stdout
