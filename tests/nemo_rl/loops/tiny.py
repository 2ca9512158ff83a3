"""A policy of a few numbers in the place of NeMo RL's Policy and VllmGeneration, its data and its environment.

The prompt is a number and the answer is a number: right where they are equal. The policy is a table of logits, trained
on the advantages that NeMo RL computes. Faults come where TINY_FAULT says, as `<kind>:<phase>:<step>`: kind is kill,
error or nan; step is the run's, from 1.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

WORDS = 8
PAD, END = WORDS, WORDS + 1


def fault(phase: str, step: int) -> str:
    """Have the fault of this place and step, if it has one; the kind of one that is no end."""
    kind, where, at = (os.environ.get("TINY_FAULT") or "::").split(":")
    if where != phase or str(step) != at:
        return ""
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "error":
        raise RuntimeError(f"a tiny fault in {phase} at step {step}")
    return kind


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {str(n): n for n in range(WORDS)} | {"<pad>": PAD, "<end>": END}
    made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<end>")


class Prompts(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Numbers to repeat."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        word = index % WORDS
        return {
            "message_log": [{"role": "user", "content": str(word), "token_ids": torch.tensor([word])}],
            "length": 1,
            "extra_env_info": {"ground_truth": str(word)},
            "loss_multiplier": 1.0,
            "idx": index,
            "task_name": "math",
            "stop_strings": None,
        }


class Here:
    """A method of an actor that is not one."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def remote(self, *given: Any, **named: Any) -> Any:
        return Result(self.method(*given, **named))


class Result:
    """What `ray.get` of it gives."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Repeats:
    """Rewards 1 for the prompt's number and 0 for any other; with TINY_EASY every even prompt's answers are all right,
    so that dynamic sampling leaves them out."""

    def step(self, logs: list[Any], infos: list[Any]) -> Any:
        from nemo_rl.environments.interfaces import EnvironmentReturn

        easy = bool(os.environ.get("TINY_EASY"))
        truths = [info["ground_truth"] for info in infos]
        said = [log[-1]["content"].split()[:1] for log in logs]
        right = [s == [t] or (easy and int(t) % 2 == 0) for s, t in zip(said, truths, strict=True)]
        return EnvironmentReturn(
            observations=[{"role": "environment", "content": "0"} for _ in logs],
            metadata=list(infos),
            next_stop_strings=[None] * len(logs),
            rewards=torch.tensor(right, dtype=torch.float32),
            terminateds=torch.ones(len(logs)),
            answers=[None] * len(logs),
        )


class Environment(Repeats):
    """The same, called as an actor is."""

    def __init__(self) -> None:
        self.step = Here(super().step)  # type: ignore[method-assign]


def quiet(*_: Any, **__: Any) -> None:
    """What a tiny policy need not do: move between GPUs, profile, stop."""


def without_ray() -> None:
    """NeMo RL's report of memory asks a Ray, and there is none."""
    import importlib.util

    if importlib.util.find_spec("nemo_rl.utils.memory_tracker"):
        from nemo_rl.utils import memory_tracker

        if hasattr(memory_tracker, "memory_summary"):
            memory_tracker.memory_summary = lambda **_: ""


class Tiny:
    """Logits, and the step that they were trained to: what the policy and its generation share."""

    table = torch.zeros(WORDS, WORDS)
    step = 0


class Policy:
    """NeMo RL's Policy by its interface."""

    def __init__(self, *, weights_path: Any = None, optimizer_path: Any = None, **_: Any) -> None:
        fault("setup", 0)
        Tiny.table, Tiny.step = torch.zeros(WORDS, WORDS), 0
        if weights_path is not None:
            saved = torch.load(Path(weights_path) / "table.pt")
            Tiny.table, Tiny.step = saved["table"], saved["step"]
        self.saving = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("prepare_", "offload_", "finish_", "print_", "start_", "stop_", "shutdown")):
            return quiet
        if name.startswith(("init_collective", "stream_weights", "broadcast_weights")):
            return lambda *_, **__: []
        if name == "sharding_annotations":
            return SimpleNamespace(get_axis_size=lambda axis: 1)
        raise AttributeError(name)

    def get_free_memory_bytes(self) -> int:
        return 2**30

    def _logprobs(self, data: Any) -> torch.Tensor:
        ids = data["input_ids"]
        of = torch.log_softmax(Tiny.table, dim=1)
        found = torch.zeros(ids.shape, dtype=torch.float32)
        known = (ids[:, 1:] < WORDS) & (ids[:, :1] < WORDS)
        found[:, 1:] = torch.where(known, of[ids[:, :1].clamp(max=WORDS - 1), ids[:, 1:].clamp(max=WORDS - 1)], 0.0)
        return found

    def get_logprobs(self, data: Any, **_: Any) -> Any:
        fault("logprobs", Tiny.step + 1)
        return {"logprobs": self._logprobs(data)}

    def get_reference_policy_logprobs(self, data: Any, **_: Any) -> Any:
        return {"reference_logprobs": self._logprobs(data)}

    def train(self, data: Any, loss_fn: Any, **_: Any) -> Any:
        step = Tiny.step + 1
        kind = fault("train", step)
        for ids, weight in zip(data["input_ids"], data["advantages"][:, 1], strict=True):
            if int(ids[1]) < WORDS:
                Tiny.table[int(ids[0]), int(ids[1])] += 0.3 * float(weight)
        Tiny.step = step
        loss = math.nan if kind == "nan" else 1.0 / 3 / step
        size = data["input_ids"].shape[0]
        means = {"lr": 1e-5, "wd": 0.01, "global_valid_seqs": size, "global_valid_toks": 2 * size}
        sums = {"gen_kl_error": 1e-4 / 3, "token_mult_prob_error": 1.0, "probs_ratio": 1.0, "kl_penalty": 0.0}
        return {
            "loss": torch.tensor([loss]),
            "grad_norm": torch.tensor([0.7]),
            "all_mb_metrics": {name: [float(value)] for name, value in (means | sums).items()},
        }

    def save_checkpoint(self, weights_path: Any, optimizer_path: Any = None, **_: Any) -> None:
        Path(weights_path).mkdir(parents=True)
        torch.save({"table": Tiny.table, "step": Tiny.step}, Path(weights_path) / "table.pt")
        if optimizer_path is not None:
            Path(optimizer_path).mkdir(parents=True)
        fault("save", Tiny.step)
        self.saving = Tiny.step

    def finalize_async_save(self) -> None:
        """Main's background thread waits for this before it renames a checkpoint."""
        time.sleep(0.3)
        fault("finalize", self.saving)


class Generation:
    """VllmGeneration by its interface."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.weight_synchronizer = None
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith(
            ("prepare_", "finish_", "shutdown", "clear_", "snapshot_", "start_", "stop_", "invalidate_")
        ):
            return lambda *_, **__: True
        if name.startswith(("update_weights", "init_collective")):
            return lambda *_, **__: []
        raise AttributeError(name)

    def blocks_training(self) -> bool:
        return False

    def get_logger_metrics(self) -> dict[str, Any]:
        return {}

    def get_step_metrics(self) -> dict[str, Any]:
        return {}

    def generate(self, data: Any, greedy: bool = False) -> Any:
        from nemo_rl.distributed.batched_data_dict import BatchedDataDict

        size = data["input_ids"].shape[0]
        rolls = size == int(os.environ["TINY_ROLLOUT"])
        fault("generation" if rolls else "validation", Tiny.step + rolls)
        first = data["input_ids"][:, 0]
        chance = torch.Generator().manual_seed(1000 * Tiny.step + int(first.sum()) + int(rolls))
        odds = torch.softmax(Tiny.table[first], dim=1)
        said = torch.multinomial(odds, 1, generator=chance)[:, 0]
        return BatchedDataDict(answers(first, said, odds))

    async def generate_async(self, data: Any, greedy: bool = False) -> AsyncIterator[Any]:
        from nemo_rl.distributed.batched_data_dict import BatchedDataDict

        for n in range(data["input_ids"].shape[0]):
            self.asked += 1
            if self.asked == int(os.environ.get("TINY_ASYNC_FAULT") or 0):
                raise RuntimeError("a tiny fault in a rollout")
            first = data["input_ids"][n : n + 1, 0]
            said = torch.tensor([(int(first[0]) + self.asked % 2) % WORDS])
            yield n, BatchedDataDict(answers(first, said, torch.full((1, WORDS), 1 / WORDS)))


def answers(first: torch.Tensor, said: torch.Tensor, odds: torch.Tensor) -> dict[str, Any]:
    """Prompt and answer, a word each, as vLLM's output comes."""
    size = first.shape[0]
    logprobs = torch.zeros(size, 2)
    logprobs[:, 1] = torch.log(odds[torch.arange(size), said])
    return {
        "output_ids": torch.stack([first, said], dim=1),
        "logprobs": logprobs,
        "generation_lengths": torch.ones(size, dtype=torch.long),
        "unpadded_sequence_lengths": torch.full((size,), 2),
        "truncated": torch.zeros(size, dtype=torch.bool),
    }


class Cluster:
    """RayVirtualCluster by its size."""

    def __init__(self, bundle_ct_per_node_list: list[int], **_: Any) -> None:
        self.size = sum(bundle_ct_per_node_list)
        self.num_gpus_per_node = bundle_ct_per_node_list[0]

    def __getattr__(self, name: str) -> Any:
        return quiet

    def world_size(self) -> int:
        return self.size

    def get_master_address_and_port(self) -> tuple[str, int]:
        return "127.0.0.1", 1
