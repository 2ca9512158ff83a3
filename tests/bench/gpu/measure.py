"""python tests/bench/gpu/measure.py --out measured.jsonl

Measures the embedded engine on this machine's GPU: its two ceilings (matrix products and memory bandwidth), GRPO steps
of hybrid models of 10M, 100M and 1B parameters with random weights, peak memory by phase over a grid of configs, and
whether the tiny run computes on the GPU what it computes on the CPU. One JSON object a line, written as soon as it is
known, the most important first; docs/gpu.md says how to read them.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cases
import torch
import transformers

from nano_exp.engines import embedded
from nano_exp.engines.embedded import settings, train, warm_start
from nano_exp.engines.embedded.nemotron_h import batched_logprobs
from nano_exp.engines.embedded.rollout import Rollout, pad_left
from nano_exp.engines.embedded.settings import Settings
from nano_exp.engines.embedded.trainer import Trainer
from nano_exp.errors import UserError

Record = dict[str, Any]
LARGEST_MATRIX = 8192
COPY_BYTES = 2**32
#: Steps that are timed, after one that is not.
STEPS = 2


class Phases:
    """Watches a trainer: for each phase the bytes allocated when it began, the most while it ran, and its seconds.

    A phase that is entered several times counts its highest peak, the bytes at its latest beginning and the sum of
    its seconds. On a CPU there are only seconds.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seen: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        on_gpu = self.device.type == "cuda"
        start = 0
        if on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
        began = time.perf_counter()
        yield
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        one = self.seen.setdefault(phase, {"start_bytes": 0, "peak_bytes": 0, "reserved_bytes": 0, "seconds": 0.0})
        one["seconds"] += seconds
        one["start_bytes"] = start
        if on_gpu:
            one["peak_bytes"] = max(one["peak_bytes"], torch.cuda.max_memory_allocated())
            one["reserved_bytes"] = max(one["reserved_bytes"], torch.cuda.max_memory_reserved())

    def take(self) -> dict[str, dict[str, float]]:
        taken, self.seen = self.seen, {}
        return taken


def settings_of(base: Record, changes: Record, folder: Path) -> Settings:
    """The settings of `base` with dotted keys changed, checked as a launch checks them."""
    own = {"checkpointing.checkpoint_dir": str(folder / "checkpoints"), "logger.log_dir": str(folder / "logs")}
    config = cases.changed(base, cases.COMMON | own | changes)
    embedded.check(config)
    return settings.from_config(config)


def _new_trainer(wanted: Settings, device: torch.device) -> tuple[Trainer, Phases]:
    """A trainer whose weights are drawn on the device itself: which ones they are is of no interest here."""
    phases = Phases(device)
    with device:
        trainer = Trainer(wanted, device, phases)
    trainer.freeze_reference()
    return trainer, phases


def synthetic(trainer: Trainer, length: int) -> Rollout:
    """A rollout of random answers, each of which fills its sequence of `length` tokens, with random rewards."""
    device, wanted = trainer.device, trainer.settings
    requests = [trainer.train_set[number % len(trainer.train_set)] for number in range(wanted.answers)]
    prompts, mask = pad_left([trainer.vocabulary.prompt(one) for one in requests], trainer.vocabulary.pad, device)
    prompt_length = prompts.shape[1]
    chance = torch.Generator(device).manual_seed(7)
    shape = (wanted.answers, length - prompt_length)
    size = wanted.architecture["vocab_size"]
    answers = torch.randint(trainer.vocabulary.end + 1, size, shape, generator=chance, device=device)
    return Rollout(
        tokens=torch.cat([prompts, answers], dim=1),
        mask=torch.cat([mask, torch.ones_like(answers)], dim=1),
        prompt_length=prompt_length,
        token_mask=torch.ones(shape, device=device),
        logprobs=torch.full(shape, -torch.log(torch.tensor(float(size))).item(), device=device),
        rewards=torch.rand(wanted.answers, generator=chance, device=device).round(),
        truncated=torch.ones(wanted.answers, dtype=torch.bool, device=device),
        prompt_tokens=mask.sum(-1),
        texts=[],
    )


class Session:
    """One call: where records go, and how long it may still take.

    Parameters
    ----------
    out: the records' file, written anew
    base: the config that the cases change
    seconds: no measurement begins after these
    """

    def __init__(self, out: Path, base: Record, device: torch.device, seconds: float, folder: Path) -> None:
        self.base, self.device, self.folder = base, device, folder
        self.ends = time.monotonic() + seconds
        try:
            self.file = out.open("w")
        except OSError as error:
            raise UserError(
                f"--out {out}: {error.strerror}", "the records are written there", "--out measured.jsonl"
            ) from error

    def write(self, record: Record) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        shown = {key: value for key, value in record.items() if key not in ("changes", "steps", "phases")}
        print(json.dumps(shown)[:400], flush=True)

    def measure(self, kind: str, name: str, changes: Record, run: Callable[[Record], Record]) -> None:
        """Write what `run` returns, or why there is nothing. A measurement that fails costs no other one."""
        record: Record = {"kind": kind, "name": name, "changes": changes}
        if time.monotonic() > self.ends:
            self.write({**record, "kind": "left out", "why": "the time given with --seconds was over"})
            return
        began = time.monotonic()
        try:
            record |= run(changes)
        except UserError:
            raise
        except Exception as error:  # out of memory, mostly; recorded, and never taken for a measurement
            record |= {"kind": "failed", "why": f"{type(error).__name__}: {error}"[:2000]}
        record["took_seconds"] = round(time.monotonic() - began, 2)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.write(record)

    def speed(self, changes: Record) -> Record:
        """Whole GRPO steps."""
        wanted = settings_of(self.base, changes, self.folder)
        trainer, phases = _new_trainer(wanted, self.device)
        steps: list[Record] = []
        for number in range(1 + STEPS):
            began = time.perf_counter()
            metrics, _ = trainer.step(number, lambda: None)
            seconds = time.perf_counter() - began
            steps.append(
                {
                    "seconds": seconds,
                    "phases": phases.take(),
                    "generated_tokens": metrics["mean_gen_tokens_per_sample"] * wanted.answers,
                    "all_tokens": metrics["total_num_tokens"],
                    "loss": metrics["loss"],
                    "grad_norm": metrics["grad_norm"],
                    "token_mult_prob_error": metrics["token_mult_prob_error"],
                }
            )
        return {"parameters": trainer.parameters, "steps": steps[1:], "first_step": steps[0]}

    def peak(self, changes: Record) -> Record:
        """A step without its rollout, on random answers of full length; the second one, when Adam has its moments."""
        wanted = settings_of(self.base, changes, self.folder)
        trainer, phases = _new_trainer(wanted, self.device)
        answers = synthetic(trainer, wanted.max_length)
        trainer.learn(answers, 0)
        phases.take()
        trainer.learn(answers, 1)
        return {"parameters": trainer.parameters, "tokens": answers.tokens.numel(), "phases": phases.take()}

    def rollout(self, changes: Record) -> Record:
        """Two rollouts and a step between them, so that the second finds Adam's moments; its phases alone."""
        wanted = settings_of(self.base, changes, self.folder)
        trainer, phases = _new_trainer(wanted, self.device)
        trainer.step(0, lambda: None)
        phases.take()
        metrics, answers = trainer.step(1, lambda: None)
        seen = phases.take()
        return {
            "parameters": trainer.parameters,
            "generated_tokens": metrics["mean_gen_tokens_per_sample"] * wanted.answers,
            "longest": answers.tokens.shape[1],
            "phases": {"generation": seen["generation"]},
        }

    def parity(self, changes: Record) -> Record:
        """The tiny run's steps on the CPU and on this device, with the same weights and the same answers."""
        wanted = settings_of(self.base, changes, self.folder)
        cpu, here = Trainer(wanted, torch.device("cpu")), Trainer(wanted, self.device)
        plan = wanted.warm_start
        losses: dict[str, list[float]] = {"cpu": [], "here": []}
        for name, one in (("cpu", cpu), ("here", here)):

            def note(step: int, loss: float, seen: list[float] = losses[name]) -> None:
                seen.append(loss)

            warm_start.run(one.model, one.vocabulary, one.train_set, plan, wanted.seed, note)
        here.model.load_state_dict(cpu.model.state_dict())
        rows: list[Record] = []
        for number in range(5):
            metrics, answers = cpu.step(number, lambda: None)
            moved = _moved(answers, self.device)
            generated = (moved.logprobs, moved.token_mask)
            again, _ = batched_logprobs(
                here.model, moved.tokens, moved.mask, moved.prompt_length, here.sampling, wanted.logprob_batch
            )
            apart = ((again - generated[0]) * generated[1]).abs().max().item()
            other = here.learn(moved, number)
            rows.append({"cpu": metrics, "here": other, "largest_logprob_difference": apart})
        return {"warm_start_losses": losses, "rows": rows}

    def tiny(self, changes: Record) -> Record:
        """The whole tiny run."""
        folder = self.folder / f"tiny-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        wanted = settings_of(self.base, cases.TINY | changes, folder)
        train.Run(wanted, folder / "metrics.jsonl", lambda: False).execute()
        return {"summary": json.loads((folder / "logs/summary.json").read_text())}


def _moved(answers: Rollout, device: torch.device) -> Rollout:
    tensors: Record = {name: x.to(device) for name, x in vars(answers).items() if isinstance(x, torch.Tensor)}
    return replace(answers, **tensors)


def _median_seconds(run: Callable[[], object], device: torch.device, times: int) -> float:
    taken = []
    for _ in range(times + 3):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[3:])


def ceilings(device: torch.device, small: bool) -> Record:
    """What this machine reaches: bfloat16 matrix products in FLOP/s, and a copy on the device in bytes/s."""
    side, size = (256, 2**20) if small else (LARGEST_MATRIX, COPY_BYTES)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randint(0, 255, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    out = torch.empty_like(left)
    matmul = 2 * side**3 / _median_seconds(lambda: torch.mm(left, right, out=out), device, 20)
    copied = 2 * size / _median_seconds(lambda: target.copy_(source), device, 20)
    return {
        "matmul_bf16_flops_per_s": matmul,
        "matmul_side": side,
        "copy_bytes_per_s": copied,
        "copy_bytes": size,
        "copy_counts": "bytes read and bytes written",
    }


def machine(device: torch.device) -> Record:
    on_gpu = device.type == "cuda"
    gpu = torch.cuda.get_device_properties(device) if on_gpu else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": gpu.name if gpu else None,
        "total_bytes": gpu.total_memory if gpu else None,
        "context_bytes": _context_bytes() if on_gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
    }


def _context_bytes() -> int:
    """What of the GPU is taken that torch's allocator did not ask for: CUDA context, libraries, other processes."""
    free, whole = torch.cuda.mem_get_info()
    return whole - free - torch.cuda.memory_reserved()


def _base(path: Path | None) -> Record:
    """The config that the cases change: a run's frozen config, or the composed tiny run."""
    if path is None:
        return cases.base_config()
    from nano_exp.engines.embedded.__main__ import read

    return read(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the records' file (JSON lines), written anew")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: speeds only, to try the script")
    parser.add_argument("--base", type=Path, help="the output of `nano-exp render`, where Hydra is not installed")
    parser.add_argument("--seconds", type=float, default=900.0, help="no measurement begins after these")
    parser.add_argument("--small", action="store_true", help="models of thousands of parameters, to try the script")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                "--device cuda",
                f"torch {torch.__version__} sees no CUDA device on this machine",
                "run it where there is one; --device cpu --small tries the script without",
            )
        measure_all(chosen.out, _base(chosen.base), torch.device(chosen.device), chosen.seconds, chosen.small)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0


def measure_all(out: Path, base: Record, device: torch.device, seconds: float, small: bool) -> None:
    """Every measurement of cases.py, in its order."""
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="nano-exp-measure-") as folder:
        session = Session(out, base, device, seconds, Path(folder))
        session.measure("machine", "machine", {}, lambda _: ceilings(device, small) | machine(device))
        runs = {
            "speed": session.speed,
            "peak": session.peak,
            "rollout": session.rollout,
            "parity": session.parity,
            "tiny": session.tiny,
        }
        for case in cases.all_cases(small):
            session.measure(case.kind, case.name, case.changes, runs[case.kind])


if __name__ == "__main__":
    sys.exit(main())
