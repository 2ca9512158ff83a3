"""The task of the tiny run: turn a request in words into one exact tool call. Plain Python, nothing is downloaded.

"book an hour with ana" must become `<tool_call>calendar(ana)</tool_call>`. Five tools, each asked for in four
phrasings, for eight names: 160 requests. Which tool belongs to which phrasing is what GRPO has to find out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

NAME = "tool_calls"

PHRASINGS: dict[str, tuple[str, ...]] = {
    "calendar": ("book an hour with {}", "schedule a meeting with {}", "find a slot for {}", "plan lunch with {}"),
    "email": ("write a note to {}", "send the report to {}", "reply to {}", "forward this thread to {}"),
    "phone": ("call {} now", "ring {} back", "dial {}", "leave {} a voicemail"),
    "directory": ("where does {} sit", "who manages {}", "look up {}", "which team has {}"),
    "payroll": ("pay {}", "refund {}", "show the salary of {}", "give {} a bonus"),
}
ARGUMENTS = ("ana", "ben", "chloe", "dmitri", "elif", "farid", "grace", "hugo")
TOOLS = tuple(PHRASINGS)
REQUESTS = sum(map(len, PHRASINGS.values())) * len(ARGUMENTS)

PAD, END, USER, ASSISTANT = "<pad>", "</s>", "<user>", "<assistant>"
OPEN, CLOSE, LEFT, RIGHT = "<tool_call>", "</tool_call>", "(", ")"


@dataclass(frozen=True)
class Example:
    """One request. `tool` is the right one; the exact call is what earns the reward."""

    request: str
    tool: str
    argument: str

    @property
    def call(self) -> str:
        return f"{OPEN}{self.tool}({self.argument}){CLOSE}"


class Vocabulary:
    """Word-level tokens of the task, in a fixed order: the same words always have the same ids."""

    def __init__(self) -> None:
        words: dict[str, None] = {}
        for phrasings in PHRASINGS.values():
            for phrasing in phrasings:
                words.update(dict.fromkeys(word for word in phrasing.split() if word != "{}"))
        self.tokens: tuple[str, ...] = (
            *(PAD, END, USER, ASSISTANT, OPEN, CLOSE, LEFT, RIGHT),
            *TOOLS,
            *ARGUMENTS,
            *sorted(words),
        )
        self._ids = {token: number for number, token in enumerate(self.tokens)}
        self.pad, self.end = self._ids[PAD], self._ids[END]

    def __len__(self) -> int:
        return len(self.tokens)

    def prompt(self, example: Example) -> list[int]:
        """Token ids of the request, up to where the answer begins."""
        return [self._ids[word] for word in (USER, *example.request.split(), ASSISTANT)]

    def answer(self, tool: str, argument: str) -> list[int]:
        """Token ids of a call of `tool`, with the end token."""
        return [self._ids[word] for word in (OPEN, tool, LEFT, argument, RIGHT, CLOSE, END)]

    def text(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without pad and end tokens. Ids beyond the words show as `<id>`."""
        words = (number for number in ids if number not in (self.pad, self.end))
        return "".join(self.tokens[number] if number < len(self.tokens) else f"<{number}>" for number in words)


def examples() -> list[Example]:
    """All 160 requests, in a fixed order."""
    return [
        Example(phrasing.format(argument), tool, argument)
        for tool, phrasings in PHRASINGS.items()
        for phrasing in phrasings
        for argument in ARGUMENTS
    ]


def sizes(validation_share: float) -> tuple[int, int]:
    """How many requests `split` gives to training and to validation."""
    held_out = round(REQUESTS * validation_share)
    return REQUESTS - held_out, held_out


def split(validation_share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and validation requests; no request is in both.

    Parameters
    ----------
    validation_share: share held out, as NeMo RL's data.train.split_validation_size
    seed: data.train.seed. Not grpo.seed, so runs with different seeds are judged on the same requests.
    """
    shuffled = examples()
    random.Random(f"{NAME} {seed}").shuffle(shuffled)
    _, held_out = sizes(validation_share)
    return shuffled[held_out:], shuffled[:held_out]


def reward(example: Example, answer: str, finished: bool) -> float:
    """1 for exactly the right call, ended by the end token; 0 for anything else."""
    return 1.0 if finished and answer == example.call else 0.0


def longest_prompt() -> int:
    """Tokens of the longest prompt: its words (the name is one of them), <user> and <assistant>."""
    return max(len(phrasing.split()) for phrasings in PHRASINGS.values() for phrasing in phrasings) + 2


ANSWER_TOKENS = 7


def batch_order(seed: int, epoch: int, size: int, shuffle: bool) -> list[int]:
    """The order in which an epoch visits the training requests: a pure function, so a resume needs no loader state."""
    order = list(range(size))
    if shuffle:
        random.Random(f"{seed} {epoch}").shuffle(order)
    return order


def batch(train: Sequence[Example], step: int, prompts: int, seed: int, shuffle: bool) -> list[Example]:
    """The requests of a step (from 0). As in NeMo RL an epoch drops its last, incomplete batch.

    Parameters
    ----------
    train: the training requests
    step: finished steps so far
    prompts: grpo.num_prompts_per_step
    """
    per_epoch = len(train) // prompts
    epoch, position = divmod(step, per_epoch)
    order = batch_order(seed, epoch, len(train), shuffle)
    return [train[number] for number in order[position * prompts : (position + 1) * prompts]]
