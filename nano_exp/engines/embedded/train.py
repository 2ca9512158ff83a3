"""A run of the embedded engine: warm start or resume, training loop, checkpoints, summary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from nano_exp.engines.embedded import checkpoint, schedule, supervised, tracking, warm_start
from nano_exp.engines.embedded.nemotron_h import choose_device
from nano_exp.engines.embedded.settings import Settings
from nano_exp.engines.embedded.starting import OPTIMIZER, WEIGHTS
from nano_exp.engines.embedded.trainer import Metrics, State, Trainer
from nano_exp.errors import UserError
from nano_exp.store import metrics_file

#: reward_after is the mean of this many last steps.
AFTER_STEPS = 5
TEACHES = "the form of a call and copying the name, with a random tool"


class Stop(Exception):
    """A signal asked the run to end; nothing of the present step counts."""


def say(text: str) -> None:
    print(text, flush=True)


class Run:
    """One attempt at a run.

    Parameters
    ----------
    settings: what to do
    metrics_path: the run's metrics.jsonl
    stopping: tells whether a signal has come
    """

    def __init__(self, settings: Settings, metrics_path: Path, stopping: Callable[[], bool]) -> None:
        self.settings, self.metrics_path, self.stopping = settings, metrics_path, stopping
        self.began = time.time()
        torch.set_num_threads(settings.threads)
        self.device = choose_device(settings.device)
        self.trainer = Trainer(settings, self.device)
        self.store = checkpoint.Store(
            settings.checkpoint_dir, settings.keep_top_k, settings.metric_name, settings.higher_is_better
        )
        self.finished = 0
        self.valid_tokens = 0.0
        self.history: dict[str, Any] = {"rewards": [], "validations": [], "seconds": 0.0}
        self.saved_step = -1
        self.info: dict[str, Any] = {}
        self.chance: State = {}
        self.rows: tracking.MetricsFile
        self.wandb: tracking.Wandb

    def keep_going(self) -> None:
        """Raise Stop once a signal has come."""
        if self.stopping():
            raise Stop

    def execute(self) -> None:
        """Train until the last step, the deadline or a signal. Returns normally in all three cases.

        Raises
        ------
        UserError: the run cannot go on, with what to do about it
        """
        settings = self.settings
        say(f"embedded engine: {self.trainer.parameters} parameters on {self.device}, torch {torch.__version__}")
        newest = checkpoint.newest(settings.checkpoint_dir, say) if settings.checkpointing else None
        dropped = metrics_file.cut(self.metrics_path.parent, newest.step if newest else 0)
        if dropped:
            say(f"metrics.jsonl: {dropped} rows of steps that will be repeated were dropped")
        self.rows = tracking.MetricsFile(self.metrics_path)
        run, finished = self.metrics_path.parent.name, newest.step if newest else 0
        self.wandb = tracking.Wandb(settings.wandb, settings.raw, settings.log_dir, run=run, finished=finished)
        try:
            if newest:
                self._resume(newest)
            elif settings.init_from:
                self._init_from(Path(settings.init_from))
            else:
                self._warm_start()
            self._loop()
        except Stop:
            self._stopped()
        finally:
            self.rows.close()
        self._finish()

    def _warm_start(self) -> None:
        plan = self.settings.warm_start
        began = time.time()

        def progress(step: int, loss: float) -> None:
            self.keep_going()
            if step % 25 == 0 or step == plan.steps:
                say(f"warm start {step}/{plan.steps}  loss {loss:.3f}")

        if plan.steps:
            say(f"warm start: {plan.steps} supervised steps teach {TEACHES}; GRPO starts at chance, 0.2")
            trainer = self.trainer
            warm_start.run(trainer.model, trainer.vocabulary, trainer.train_set, plan, self.settings.seed, progress)
            say(f"warm start took {time.time() - began:.1f} s")
        self._begin()

    def _init_from(self, path: Path) -> None:
        """Another run's weights in place of the warm start: new optimizer, and they are the reference policy."""
        if problem := checkpoint.damage(path):
            raise UserError(
                f"{path}: {problem}", "this run starts from its weights", "bring it back, or launch from another step"
            )
        weights = torch.load(path / WEIGHTS, map_location="cpu", weights_only=True)
        self.trainer.model.load_state_dict(weights)
        say(f"weights of {path}: no warm start, a new optimizer")
        self._begin()

    def _begin(self) -> None:
        self.trainer.freeze_reference()
        self.chance = self.trainer.chance()
        if self.settings.val_at_start:
            self._write(0, self._validate(0))

    def _resume(self, newest: checkpoint.Checkpoint) -> None:
        trainer = self.trainer
        weights, rng, history = (
            torch.load(newest.path / name, map_location="cpu", weights_only=True)
            for name in (WEIGHTS, "rng.pt", "history.pt")
        )
        trainer.model.load_state_dict(weights)
        reference = newest.path / "policy/reference.pt"
        if reference.exists():
            loaded = torch.load(reference, map_location=self.device, weights_only=True)
            trainer.reference = loaded
        optimizer = newest.path / OPTIMIZER
        if optimizer.exists():
            trainer.optimizer.load_state_dict(torch.load(optimizer, map_location="cpu", weights_only=True))
            trainer.configure_optimizer()  # of a fork these may be others
        else:
            say(
                f"warning: {newest.path.name} has no optimizer state (checkpointing.save_optimizer=false); "
                "the optimizer starts anew, so this run will differ from an uninterrupted one"
            )
        trainer.restore_chance(rng)
        self.chance = trainer.chance()
        self.history = history
        self.valid_tokens = newest.info["total_valid_tokens"]
        self.finished = self.saved_step = newest.step
        self.info = newest.info
        say(f"resuming from {newest.path}: step {newest.step}/{self.settings.max_steps}")

    def _loop(self) -> None:
        settings = self.settings
        limit = schedule.MustSaveBy(settings.must_save_by, time.monotonic)
        began, first = time.monotonic(), self.finished
        while self.finished < settings.max_steps:
            self.keep_going()
            step = self.finished + 1
            last = step == settings.max_steps
            timer = self.trainer.timer
            timer.take()
            with timer.measure("total_step_time"):
                train = self._train_step()
                if not all(abs(train[name]) < float("inf") for name in ("loss", "grad_norm")):
                    self._write(step, _prefixed("train", train))
                    raise UserError(
                        f"step {step}: train/loss={train['loss']} and train/grad_norm={train['grad_norm']}",
                        "training has diverged, and every later step would be without meaning",
                        f"a lower optimizer.lr (now {settings.optimizer.lr}) or policy.max_grad_norm",
                        code=1,
                    )
                due = settings.val_period > 0 and step % settings.val_period == 0
                validation = self._validate(step) if due or (settings.val_at_end and last) else None
            self.finished = step
            self.valid_tokens += train["global_valid_toks"]
            self.history["rewards"].append(train["reward"])
            self.chance = self.trainer.chance()
            self.info = self._training_info(train, validation)
            out_of_time = limit.step_finished()
            pending = None
            if settings.checkpointing and (last or out_of_time or step % settings.save_period == 0):
                with timer.measure("checkpointing"):
                    pending = self._write_checkpoint()
            timing = timer.take()
            timing["valid_tokens_per_sec_per_gpu"] = train["global_valid_toks"] / timing["total_step_time"]
            self._write(step, _prefixed("train", train) | _prefixed("timing/train", timing) | (validation or {}))
            if pending is not None:
                self._publish(pending)
            rate = (step - first) / (time.monotonic() - began)
            validation_text = (
                f"validation {self.history['validations'][-1]:.3f}  " if self.history["validations"] else ""
            )
            say(f"step {step}/{settings.max_steps}  reward {train['reward']:.3f}  {validation_text}{rate:.1f} steps/s")
            if out_of_time and not last:
                say(f"checkpoint_must_save_by is reached: saved step {step}, ending here")
                return

    def _train_step(self) -> Metrics:
        if self.settings.algorithm == "sft":
            return supervised.step(self.trainer, self.finished)
        train, _ = self.trainer.step(self.finished, self.keep_going)
        return train

    def _validate(self, step: int) -> Metrics:
        began = time.perf_counter()
        metrics, pairs = self.trainer.validate(step)
        for request, answer in pairs[: self.settings.samples_to_print]:
            say(f"  {request!r} -> {answer}")
        self.history["validations"].append(metrics["accuracy"])
        timing = {"total_validation_time": time.perf_counter() - began}
        return _prefixed("validation", metrics) | _prefixed("timing/validation", timing)

    def _write(self, step: int, metrics: Metrics) -> None:
        self.rows.write(step, metrics)
        self.wandb.log(step, metrics)

    def _training_info(self, train: Metrics, validation: Metrics | None) -> dict[str, Any]:
        """NeMo RL's GRPOSaveState, with the metric that ranks checkpoints where this step has it."""
        settings = self.settings
        per_epoch = len(self.trainer.train_set) // settings.prompts
        info: dict[str, Any] = {
            "consumed_samples": self.finished * settings.prompts,
            "current_step": self.finished % per_epoch,
            "current_epoch": self.finished // per_epoch,
            "total_steps": self.finished,
            "total_valid_tokens": self.valid_tokens,
        }
        if validation is not None:
            info["val_reward"] = validation["validation/accuracy"]
        if settings.metric_name is not None:
            prefix, _, name = settings.metric_name.partition(":")
            source = train if prefix == "train" else validation
            if source is not None:
                info[settings.metric_name] = source[name if prefix == "train" else f"validation/{name}"]
        return info

    def _write_checkpoint(self) -> Path:
        trainer, settings = self.trainer, self.settings

        def tensors(value: Any) -> Callable[[Path], None]:
            return lambda path: torch.save(value, path)

        def write_config(path: Path) -> None:
            path.write_text(yaml.safe_dump(settings.raw))

        writers: dict[str, Callable[[Path], None]] = {
            "config.yaml": write_config,
            WEIGHTS: tensors(trainer.model.state_dict()),
            "rng.pt": tensors(self.chance),
            "history.pt": tensors(self.history),
        }
        if settings.save_optimizer:
            writers[OPTIMIZER] = tensors(trainer.optimizer.state_dict())
        if trainer.reference is not None:
            writers["policy/reference.pt"] = tensors(trainer.reference)
        if settings.metric_name is not None and settings.metric_name not in self.info:
            say(f"step {self.finished} has no {settings.metric_name}: its checkpoint ranks last")
        return self.store.write(self.finished, self.info, writers)

    def _publish(self, pending: Path) -> None:
        """Make a written checkpoint count. The rows come first: a resume keeps exactly those up to its step."""
        self.rows.sync()
        self.store.publish(pending)
        self.saved_step = self.finished

    def _stopped(self) -> None:
        """Save the last finished step, if it is not saved yet."""
        if self.settings.checkpointing and self.finished > 0 and self.saved_step != self.finished:
            self._publish(self._write_checkpoint())
        saved = f"step {self.finished} is saved" if self.settings.checkpointing and self.finished else "nothing to save"
        say(f"stopped by a signal: {saved}; the same command goes on from there")

    def _finish(self) -> None:
        """Write summary.json once the last step is done, and close the W&B run."""
        settings, rewards, validations = self.settings, self.history["rewards"], self.history["validations"]
        summary: dict[str, Any] = {}
        warmed = 0 if settings.init_from else settings.warm_start.steps
        if self.finished >= settings.max_steps and rewards:
            last = rewards[-AFTER_STEPS:]
            summary = {
                "reward_before": rewards[0],
                "reward_after": sum(last) / len(last),
                "validation_before": validations[0] if validations else None,
                "validation_after": validations[-1] if validations else None,
                "steps": self.finished,
                "seconds": time.time() - self.began,
                "warm_start": {
                    "steps": warmed,
                    "lr": settings.warm_start.lr,
                    "teaches": TEACHES,
                },
                "parameters": self.trainer.parameters,
                "definitions": {
                    "reward_before": "mean reward of the first step, after the warm start where there was one",
                    "reward_after": f"mean reward of the last {len(last)} steps",
                    "validation_before": "first validation of the run (step 0 with grpo.val_at_start)",
                    "validation_after": "last validation of the run",
                    "seconds": "wall clock of this attempt, imports not counted",
                },
            }
            settings.log_dir.mkdir(parents=True, exist_ok=True)
            aside = settings.log_dir / ".summary.json.tmp"
            aside.write_text(json.dumps(summary, indent=1) + "\n")
            aside.replace(settings.log_dir / "summary.json")
            shown = f", validation {validations[-1]:.3f}" if validations else ""
            say(
                f"done: reward {summary['reward_before']:.3f} -> {summary['reward_after']:.3f}{shown}, "
                f"{self.finished} steps, {summary['seconds']:.1f} s, {warmed} warm-start steps"
            )
        self.wandb.finish({name: value for name, value in summary.items() if isinstance(value, int | float)})


def _prefixed(prefix: str, metrics: Metrics) -> Metrics:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}
