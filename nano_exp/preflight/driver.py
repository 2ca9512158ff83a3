"""What NeMo RL's GRPO driver asks of a config before anything is placed on a GPU (algorithms/grpo.py, setup)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nano_exp.layout.divisors import divisor
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View


@rule(2, versions=">=v0.6.0")
def prompts_per_dataloader(c: View) -> Iterator[Mistake]:
    """Several data loaders share a step's prompts equally."""
    if not c.on("data.use_multiple_dataloader"):
        return
    if not c.has("data.custom_dataloader"):
        yield Mistake(
            ("data.use_multiple_dataloader",),
            "NeMo RL reads data.custom_dataloader, the function that draws from the loaders in turn, without a default",
            "++data.custom_dataloader=examples.custom_dataloader.custom_dataloader.example_custom_dataloader",
        )
    share, multiplier = c.number("data.num_prompts_per_dataloader"), c.get("grpo.batch_multiplier", 1)
    if share is None or share < 1:
        yield Mistake(
            ("data.use_multiple_dataloader", "data.num_prompts_per_dataloader"),
            "each data loader has to be told how many of a step's prompts it gives",
            "data.num_prompts_per_dataloader=N, a divisor of grpo.num_prompts_per_step",
        )
    elif c.prompts is not None and isinstance(multiplier, int | float):
        drawn, each = int(c.prompts * multiplier), int(share * multiplier)
        if each < 1 or drawn % each:
            yield Mistake(
                ("data.num_prompts_per_dataloader", "grpo.num_prompts_per_step", "grpo.batch_multiplier"),
                f"{drawn} prompts of a step are not a whole number of shares of {each}",
                f"data.num_prompts_per_dataloader={divisor(c.prompts, share)}",
            )


@rule(3)
def validation_data(c: View) -> Iterator[Mistake]:
    """A validation needs data to validate on."""
    if not c.validates or _validation_data(c):
        return
    keys = ("grpo.val_period", "grpo.val_at_start", "grpo.val_at_end", "data.validation")
    yield Mistake(
        tuple(key for key in keys if c.has(key)),
        "validation is on and there is no data set for it, neither named nor split from the training set",
        "data.validation={...} as data.train has it, or ++data.train.split_validation_size=0.05, or grpo.val_period=0 "
        "grpo.val_at_start=false grpo.val_at_end=false",
    )


def _validation_data(c: View) -> bool:
    if c.version < (0, 6, 0):  # one data set, which brings its own validation part; NeMo Gym's is a file
        return not c.gym or bool(c.get("data.validation_jsonl_fpath"))
    if c.section("data.validation") or c.get("data.validation"):
        return True
    train = c.get("data.train")
    parts = train if isinstance(train, list) else [c.section("data.train")]
    return any(isinstance(part, dict) and (part.get("split_validation_size") or 0) for part in parts) or bool(
        c.get("data.default.split_validation_size")
    )


@rule(4)
def force_on_policy_batch(c: View) -> Iterator[Mistake]:
    """A ratio forced to 1 allows one optimizer update a rollout."""
    if c.on("loss_fn.force_on_policy_ratio") and c.rollout is not None and c.gbs is not None and c.rollout != c.gbs:
        yield Mistake(
            (
                "loss_fn.force_on_policy_ratio",
                "policy.train_global_batch_size",
                "grpo.num_prompts_per_step",
                "grpo.num_generations_per_prompt",
            ),
            f"after the first update of {c.gbs} sequences the rest of the rollout's {c.rollout} is no longer on-policy",
            f"policy.train_global_batch_size={c.rollout}, or loss_fn.force_on_policy_ratio=false",
        )


@rule(10)
def gym_needs_server(c: View) -> Iterator[Mistake]:
    """NeMo Gym talks to the model over HTTP."""
    if not c.gym:
        return
    section = c.engine_section
    if section != "vllm_cfg" and c.version < (0, 7, 0):
        # "In order to use NeMo-Gym, you must use vllm generation backend" (grpo.py)
        yield Mistake(
            ("env.should_use_nemo_gym", "policy.generation.backend"),
            "before v0.7.0 NeMo Gym works with vLLM alone",
            "policy.generation.backend=vllm",
        )
        return
    if c.always_async:
        return  # and a server
    # NeMo RL's script turns both on for vLLM, whatever is written (environments/nemo_gym.py, setup_nemo_gym_config).
    written = "; NeMo RL turns it on, so that another config is run than is written" if section == "vllm_cfg" else ""
    for name in ("async_engine", "expose_http_server"):
        key = f"policy.generation.{section}.{name}"
        if not c.on(key):
            yield Mistake(
                ("env.should_use_nemo_gym", key),
                "Gym's agents send their requests to the generation engine's HTTP server, which the asynchronous "
                f"engine has{written}",
                f"++{key}=true",
                severity="warning" if written else "error",
            )


#: Prompts of data sets by name and split (their cards on Hugging Face).
PROMPTS = {
    ("OpenMathInstruct-2", "train_1M"): 1_000_000,
    ("OpenMathInstruct-2", "train_2M"): 2_000_000,
    ("OpenMathInstruct-2", "train_5M"): 5_000_000,
}
DEFAULT_SPLIT = {"OpenMathInstruct-2": "train_1M"}


@rule(versions="<v0.8.0")
def async_data_suffice(c: View) -> Iterator[Mistake]:
    """Asynchronous GRPO ends by grpo.max_num_steps alone (a warning where the size of the data is not known).

    Its collector goes over the data once, then stops; the trainer waits for the next step's trajectories for ever
    (async_utils/trajectory_collector.py 252-304, grpo.py 3680-3702 at v0.7.0; grpo.max_num_epochs is not read).
    """
    steps, prompts = c.number("grpo.max_num_steps"), c.prompts
    if not c.on("grpo.async_grpo.enabled") or not steps or not prompts:
        return
    known = _training_prompts(c)
    if known is None:
        needed = f"{steps} steps take {steps * prompts} prompts, and how many the training data have is not known here"
        why = f"{needed}; asynchronous GRPO goes over them once, and then waits for more for ever"
        fix = f"grpo.max_num_steps=N, at most the prompts divided by {prompts}"
        yield Mistake(("grpo.async_grpo.enabled", "grpo.max_num_steps"), why, fix, severity="warning")
    elif known // prompts < steps:
        why = f"{known} prompts give {known // prompts} steps of {prompts}; asynchronous GRPO then waits for ever"
        fix = f"grpo.max_num_steps={known // prompts}" if known >= prompts else f"grpo.num_prompts_per_step={known}"
        yield Mistake(("grpo.async_grpo.enabled", "grpo.max_num_steps"), why, fix)


def _training_prompts(c: View) -> int | None:
    """How many prompts the training data have, as far as this host can tell."""
    section = c.section("data.train") or c.section("data")  # v0.5.0 has one section for both
    path = section.get("data_path") or c.get("data.train_jsonl_fpath")
    if isinstance(path, str) and path.endswith(".jsonl"):
        count = c.facts.lines(str(Path(str(c.site.get("checkout") or ".")) / path))
        return None if count is None else count * max(int(section.get("repeat") or 1), 1)
    name = str(section.get("dataset_name"))
    count = PROMPTS.get((name, str(section.get("split") or DEFAULT_SPLIT.get(name))))
    held_out = section.get("split_validation_size") or 0
    return None if count is None else count - int(count * held_out if held_out < 1 else held_out)


#: What `validate` returns without NeMo Gym: `val_metrics = {"accuracy": ..., "avg_length": ..., **additional}`, where
#: only Gym's rollouts have additional ones (grpo.py, all versions).
VALIDATION_METRICS = ("accuracy", "avg_length")
#: After v0.7.0 "grouped validation (val_num_generations_per_prompt > 1) additionally reports pass@k".
GROUPED = "grpo.val_num_generations_per_prompt"


def validation_metrics(c: View) -> tuple[str, ...]:
    """What a validation without NeMo Gym measures."""
    grouped = c.version >= (0, 8, 0) and (c.number(GROUPED) or 1) > 1
    return (*VALIDATION_METRICS, *(("pass_k",) if grouped else ()))


@rule(12)
def checkpoint_metric(c: View) -> Iterator[Mistake]:
    """Checkpoints are ranked by a metric of training or of validation (a warning where nothing validates).

    `elif metric_name not in metrics_source: raise ValueError(f"Metric {metric_name} not found in {prefix} metrics")`;
    where there are no metrics at all it warns, and the newest are kept whatever higher_is_better is, since
    remove_old_checkpoints sorts equal values by their step (utils/checkpoint.py, all versions).
    """
    key = "checkpointing.metric_name"
    name = c.get(key)
    if not c.on("checkpointing.enabled") or name is None:
        return
    if not str(name).startswith(("train:", "val:")):
        where = "val:" if "acc" in str(name) or "val" in str(name) else "train:"
        bare = str(name).removeprefix("val_").removeprefix("train_")
        if where == "val:" and not c.gym and bare not in validation_metrics(c):
            bare = "accuracy"
        yield Mistake(
            (key,),
            "it says neither train: nor val:, which NeMo RL asserts at the first save, after the first steps",
            f"{key}={where}{bare}, or {key}=null (the newest are kept)",
        )
    elif str(name).startswith("val:") and not c.validates:
        yield Mistake(
            (key, "grpo.val_period"),
            "nothing validates, so no checkpoint has this metric: NeMo RL warns at each save, ranks none, and keeps "
            "the newest",
            f"{key}=null, or grpo.val_period=N",
            severity="warning",
        )
    elif str(name).startswith("val:") and not c.gym and str(name)[4:] not in validation_metrics(c):
        yield Mistake(
            (key,),
            f"a validation without NeMo Gym measures {', '.join(validation_metrics(c))} alone (accuracy is the mean "
            "reward): NeMo RL stops at the first save after one, hours into the run",
            f"{key}=val:accuracy, or {key}=null (the newest are kept)",
        )


@rule(12, severity="warning")
def metric_between_validations(c: View) -> Iterator[Mistake]:
    """A checkpoint between validations has no validation metric, so it is not among the best."""
    save, validate = c.number("checkpointing.save_period"), c.number("grpo.val_period")
    name = str(c.get("checkpointing.metric_name") or "")
    if not c.on("checkpointing.enabled") or not name.startswith("val:") or not save or not validate:
        return
    if save > 0 and validate > 0 and save % validate:
        yield Mistake(
            ("checkpointing.metric_name", "checkpointing.save_period", "grpo.val_period"),
            f"validation metrics exist on steps that {validate} divides, and saves are at those that {save} divides: "
            "a checkpoint saved at another step ranks below all others, and is removed before them",
            f"checkpointing.save_period={validate}, or grpo.val_period={save}",
        )


@rule(13)
def checkpointing_keys(c: View) -> Iterator[Mistake]:
    """Some of checkpointing's keys are read without a default."""
    names = ["keep_top_k", "checkpoint_must_save_by"]
    if c.version >= (0, 6, 0):
        names.insert(1, "save_optimizer")
    for name in names:
        key = f"checkpointing.{name}"
        if not c.has(key):
            value = {"keep_top_k": "3", "save_optimizer": "true"}.get(name, "null")
            yield Mistake((), "NeMo RL reads it without a default and stops", f"++{key}={value}", f"{key} is missing")


#: checkpoint_must_save_by as it is read: `days, hours, minutes, seconds = map(int, time_string.split(":"))`.
SAVE_BY = "checkpointing.checkpoint_must_save_by"


@rule()
def checkpoint_times(c: View) -> Iterator[Mistake]:
    """Checkpoints are saved every so many steps, and by a time that is written DD:HH:MM:SS.

    `(total_steps + 1) % master_config.checkpointing["save_period"]` (grpo.py), computed whether or not checkpointing is
    enabled, but for the last step; `convert_to_seconds` (utils/timer.py). All versions.
    """
    key = "checkpointing.save_period"
    if c.number(key) == 0 and c.number("grpo.max_num_steps") != 1:
        period = c.number("grpo.val_period") or 10
        off = "" if c.get("checkpointing.enabled") is False else ", with checkpointing.enabled=false to save nothing"
        yield Mistake(
            (key, "checkpointing.enabled"),
            "found out at the end of the first step: the step's number is divided by it, with checkpointing off too",
            f"{key}={period if period > 0 else 10}{off}",
        )
    often = "checkpointing.ft_save_period"
    if c.version >= (0, 8, 0) and c.number(often) == 0:
        yield Mistake(
            (often,),
            "found out at the end of the first step: the step's number is divided by it",
            f"{often}=null, or {often}=N",
        )
    value = c.get(SAVE_BY)
    if (isinstance(value, str) and not _is_duration(value)) or type(value) is int:
        missing = 3 - str(value).count(":")
        longer = f"{'00:' * missing}{value}" if isinstance(value, str) and 0 < missing < 3 else ""
        yield Mistake(
            (SAVE_BY,),
            "found out when training begins, with all models loaded: NeMo RL reads it as days:hours:minutes:seconds, "
            "all four",
            f"{SAVE_BY}={longer if longer and _is_duration(longer) else '00:03:45:00'}, or {SAVE_BY}=null",
        )


def _is_duration(value: str) -> bool:
    try:
        return len([int(part) for part in value.split(":")]) == 4
    except ValueError:
        return False


@rule()
def validation_batches(c: View) -> Iterator[Mistake]:
    """A validation has at least one batch.

    `max_batches = max_val_samples // val_batch_size` (grpo.py, validate, all versions). Without a batch it reads a name
    that only a batch sets, `additional_metrics_to_report`.
    """
    samples, batch = c.number("grpo.max_val_samples"), c.number("grpo.val_batch_size")
    if c.gym or not c.validates or samples is None or batch is None or batch < 1 or samples >= batch:
        return
    smaller = f", or grpo.val_batch_size={samples}" if samples > 0 else ", or grpo.val_period=0"
    yield Mistake(
        ("grpo.max_val_samples", "grpo.val_batch_size"),
        "max_val_samples // val_batch_size comes to 0: the first validation has no batch, and NeMo RL stops there with "
        "an UnboundLocalError",
        f"grpo.max_val_samples={batch}{smaller}",
    )
