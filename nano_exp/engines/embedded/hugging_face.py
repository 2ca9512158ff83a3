"""After training: a checkpoint as Hugging Face weights, and its accuracy on held-out requests.

python -m nano_exp.engines.embedded.hugging_face export --checkpoint step_N --out FOLDER
python -m nano_exp.engines.embedded.hugging_face eval --checkpoint step_N --data validation --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from nano_exp.engines.embedded import SPLITS, checkpoint, settings, task
from nano_exp.engines.embedded.__main__ import read
from nano_exp.engines.embedded.starting import WEIGHTS
from nano_exp.errors import UserError

SCORES = "scores.json"
#: Requests that an evaluation answers at a time, where grpo.val_batch_size does not say.
BATCH = 40


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nano_exp.engines.embedded.hugging_face", description=__doc__)
    parser.add_argument("what", choices=("export", "eval"))
    parser.add_argument("--checkpoint", type=Path, required=True, help="a step_N")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--data", default=SPLITS[0], help="validation, train, or a JSONL file of requests")
    parsed = parser.parse_args(arguments)
    try:
        if problem := checkpoint.damage(parsed.checkpoint):
            raise UserError(f"{parsed.checkpoint} is damaged: {problem}", "its weights would be wrong", "another step")
        if parsed.what == "export":
            export(parsed.checkpoint, parsed.out)
        else:
            evaluate(parsed.checkpoint, parsed.data, parsed.out)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0


def _trainer(folder: Path) -> Any:
    """The run of a checkpoint, with its weights."""
    import torch
    from transformers.utils import logging

    from nano_exp.engines.embedded.nemotron_h import choose_device
    from nano_exp.engines.embedded.trainer import Trainer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    run_settings = settings.from_config(read(folder / "config.yaml"))
    torch.set_num_threads(run_settings.threads)
    trainer = Trainer(run_settings, choose_device(run_settings.device))
    trainer.model.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    trainer.model.eval()
    return trainer


def export(folder: Path, out: Path) -> None:
    """Write weights, config and tokenizer as transformers loads them, and check that it does: the same logits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = _trainer(folder)
    model, vocabulary = trainer.model, trainer.vocabulary
    model.config.time_step_min = 0.0  # training clamps no time step, and the plain class clamps at this
    model.config.architectures = ["NemotronHForCausalLM"]
    out.mkdir(parents=True)
    model.save_pretrained(out)
    model.config.architectures = ["NemotronHForCausalLM"]
    model.config.save_pretrained(out)
    _tokenizer(vocabulary).save_pretrained(out)

    loaded = AutoModelForCausalLM.from_pretrained(out).to(trainer.device).eval()
    words = AutoTokenizer.from_pretrained(out)
    request = trainer.validation_set[0] if trainer.validation_set else trainer.train_set[0]
    ids = words(f"{task.USER} {request.request} {task.ASSISTANT}")["input_ids"]
    if ids != vocabulary.prompt(request):
        raise UserError(
            f"{out}: its tokenizer gives {ids}", f"the run's gives {vocabulary.prompt(request)}", "report it"
        )
    tokens = torch.tensor([ids], device=trainer.device)
    with torch.no_grad():
        same = torch.allclose(loaded(tokens).logits.float(), model(tokens).logits.float(), atol=1e-4)
    if not same:
        raise UserError(f"{out}: its logits are not the run's", "the weights were read in another way", "report it")
    print(f"loads in transformers, with the run's logits: {sum(p.numel() for p in loaded.parameters())} parameters")


def _tokenizer(vocabulary: task.Vocabulary) -> Any:
    """The task's words as a tokenizer of transformers: a prompt is its words with spaces between them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=task.PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=task.PAD, eos_token=task.END, clean_up_tokenization_spaces=False
    )


def evaluate(folder: Path, data: str, out: Path) -> None:
    """Answer requests as training samples them, and write the mean reward and length."""
    import torch

    from nano_exp.engines.embedded import rollout

    trainer = _trainer(folder)
    requests = {"validation": trainer.validation_set, "train": trainer.train_set}.get(data) or _requests(Path(data))
    step = int(folder.name.removeprefix("step_"))
    chance = torch.Generator(trainer.device).manual_seed(trainer.settings.seed * 1_000_003 + step)  # as in training
    size = trainer.settings.val_batch_size or BATCH
    rewards: list[float] = []
    lengths: list[float] = []
    answers: list[dict[str, Any]] = []
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        given = rollout.generate(
            trainer.model, trainer.vocabulary, batch, trainer.sampling, trainer.settings.max_new_tokens, chance
        )
        rewards += given.rewards.tolist()
        lengths += given.token_mask.sum(-1).tolist()
        pairs = zip(batch, given.texts, given.rewards.tolist(), strict=True)
        answers += [{"request": one.request, "answer": text, "reward": reward} for one, text, reward in pairs]
    out.mkdir(parents=True)
    with (out / "answers.jsonl").open("w") as file:
        file.writelines(f"{json.dumps(answer)}\n" for answer in answers)
    scores = {"accuracy": sum(rewards) / len(rewards), "avg_length": sum(lengths) / len(lengths)}
    (out / SCORES).write_text(json.dumps({**scores, "samples": len(rewards)}, indent=1) + "\n")
    print(f"accuracy {scores['accuracy']:.3f} on {len(rewards)} requests of {data}")


def _requests(path: Path) -> list[task.Example]:
    """Requests of a JSONL file: {"request": "call ana now", "tool": "phone", "argument": "ana"}."""
    example = '{"request": "call ana now", "tool": "phone", "argument": "ana"}'
    known = set(task.Vocabulary().tokens)
    requests = []
    try:
        lines = path.read_text().splitlines()
        for line in filter(str.strip, lines):
            fields = json.loads(line)
            requests.append(task.Example(str(fields["request"]), str(fields["tool"]), str(fields["argument"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--data {path}: {type(error).__name__}: {error}",
            f"it is none of {', '.join(SPLITS)}, and no file of requests",
            f"--data validation, or a JSONL file with lines like {example}",
        ) from error
    strange = sorted({word for one in requests for word in one.request.split()} - known)
    if strange or not requests:
        raise UserError(
            f"--data {path}: {'unknown words ' + ', '.join(strange[:5]) if strange else 'no request in it'}",
            "the tiny model knows the task's words alone",
            f"a JSONL file with lines like {example}",
        )
    return requests


if __name__ == "__main__":
    sys.exit(main())
