"""What people call things, and the keys that these have here: for launch.py and for `++` keys alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Meant:
    """What a word means.

    Parameters
    ----------
    keys: keys and groups that take the value as it is, the likeliest first; which of them do something, and take such
        a value, depends on the config
    says: what to know of them; where there are no keys, what to type instead
    """

    keys: tuple[str, ...] = ()
    says: str = ""


def _words(names: str, *keys: str, says: str = "") -> Iterable[tuple[str, Meant]]:
    return ((name, Meant(keys, says)) for name in names.split())


_MEGATRON, _DTENSOR, _VLLM = "policy.megatron_cfg", "policy.dtensor_cfg", "policy.generation.vllm_cfg"
_BATCH = "a step's prompts, the samples of one update, or those of one forward pass"
_TENSOR = "the training's, or vLLM's"

#: The last word of a key, in lower case and with `_` -> what is meant.
MEANT: dict[str, Meant] = dict(
    [
        *_words("lr learning_rate learningrate actor_lr policy_lr base_lr max_lr", "optimizer.lr"),
        *_words("lr_min min_learning_rate", "optimizer.min_lr"),
        *_words("wd weight_decay decay", "optimizer.weight_decay"),
        *_words("betas adam_betas", "optimizer.betas"),
        *_words("adam_eps adam_epsilon", "optimizer.eps"),
        *_words(
            "warmup warmup_steps num_warmup_steps lr_warmup_steps warmup_iters",
            *("optimizer.warmup_steps", f"{_MEGATRON}.scheduler.lr_warmup_iters"),
        ),
        *_words("grad_clip gradient_clip clip_grad grad_norm max_grad_norm gradient_clip_val", "policy.max_grad_norm"),
        *_words("precision dtype torch_dtype", "policy.precision"),
        *_words(
            "batch batch_size bs train_batch_size",
            *("grpo.num_prompts_per_step", "policy.train_global_batch_size", "policy.train_micro_batch_size"),
            says=_BATCH,
        ),
        *_words("global_batch_size gbs", "policy.train_global_batch_size"),
        *_words("micro_batch_size mbs per_device_train_batch_size", "policy.train_micro_batch_size"),
        *_words("num_prompts prompts prompts_per_step rollout_batch_size", "grpo.num_prompts_per_step"),
        *_words(
            "num_generations generations n_generations group_size rollouts num_rollouts samples_per_prompt "
            "n_samples_per_prompt num_samples_per_prompt rollouts_per_prompt num_return_sequences",
            "grpo.num_generations_per_prompt",
        ),
        *_words(
            "steps max_steps num_steps total_steps train_steps training_steps num_train_steps iters iterations "
            "max_iters num_iterations",
            "grpo.max_num_steps",
        ),
        *_words("epochs epoch num_epochs max_epochs num_train_epochs total_epochs", "grpo.max_num_epochs"),
        *_words("seed random_seed rng_seed", "grpo.seed"),
        *_words("kl kl_coef kl_coeff kl_penalty kl_beta init_kl_coef", "loss_fn.reference_policy_kl_penalty"),
        *_words(
            "clip clip_ratio clip_eps clip_range epsilon cliprange ratio_clip",
            says="loss_fn.ratio_clip_min=<number> loss_fn.ratio_clip_max=<number>",
        ),
        *_words("max_turns num_turns turns", "grpo.max_rollout_turns"),
        *_words(
            "val_interval val_every eval_every eval_interval eval_steps eval_period val_freq eval_freq test_freq",
            "grpo.val_period",
        ),
        *_words(
            "save_interval save_every save_steps save_freq checkpoint_interval checkpoint_every",
            "checkpointing.save_period",
        ),
        *_words("keep_checkpoints max_checkpoints save_total_limit save_top_k", "checkpointing.keep_top_k"),
        *_words("ckpt_dir checkpoint_dir save_dir", "checkpointing.checkpoint_dir"),
        *_words("seq_len seq_length sequence_length max_seq_len max_seq_length", "policy.max_total_sequence_length"),
        *_words("max_sequence_length context_length max_length max_len", "policy.max_total_sequence_length"),
        *_words("max_new_tokens max_tokens response_length max_response_length", "policy.generation.max_new_tokens"),
        *_words("temperature temp sampling_temperature", "policy.generation.temperature"),
        *_words("top_p", "policy.generation.top_p"),
        *_words("top_k", "policy.generation.top_k"),
        *_words("gpu_memory_utilization gpu_util gpu_mem_util", f"{_VLLM}.gpu_memory_utilization"),
        *_words("max_model_len", f"{_VLLM}.max_model_len"),
        *_words(
            "tp tp_size tensor_parallel tensor_parallel_size tensor_model_parallel_size",
            *(f"{_MEGATRON}.tensor_model_parallel_size", f"{_DTENSOR}.tensor_parallel_size"),
            f"{_VLLM}.tensor_parallel_size",
            says=_TENSOR,
        ),
        *_words(
            "pp pp_size pipeline_parallel pipeline_parallel_size pipeline_model_parallel_size",
            *(f"{_MEGATRON}.pipeline_model_parallel_size", f"{_VLLM}.pipeline_parallel_size"),
            says=_TENSOR,
        ),
        *_words(
            "cp cp_size context_parallel context_parallel_size",
            *(f"{_MEGATRON}.context_parallel_size", f"{_DTENSOR}.context_parallel_size"),
        ),
        *_words(
            "ep ep_size expert_parallel expert_parallel_size expert_model_parallel_size",
            *(f"{_MEGATRON}.expert_model_parallel_size", f"{_DTENSOR}.expert_parallel_size"),
        ),
        *_words(
            "dp dp_size data_parallel data_parallel_size",
            says="leave it out: it is what the GPUs give, divided by tensor x pipeline x context parallel",
        ),
        *_words("model_name model_path model_name_or_path hf_model", "policy.model_name"),
        *_words("dataset data_name", "data"),
        *_words("layout strategy", "parallelism"),
        *_words("sweep", "sweeps"),
        *_words("nodes num_nodes nnodes n_nodes number_of_nodes", "cluster.num_nodes"),
        *_words(
            "gpus num_gpus n_gpus ngpus gpus_per_node gpu_count devices num_gpus_per_node nproc_per_node",
            "cluster.gpus_per_node",
            says="GPUs of each node",
        ),
        *_words("cpus cpus_per_node cpus_per_task num_cpus", "slurm.cpus_per_node", says="CPUs of each node"),
        *_words("mem memory mem_gb", "site.memory_gb", says="GiB of each node"),
        *_words("exclusive whole_node whole_nodes", says="site.allocation=node, or site.allocation=share"),
        *_words(
            "time time_limit timelimit walltime wall_time timeout timeout_min minutes hours",
            says="site.timeout_min=<minutes of one allocation>",
        ),
        *_words("partition queue", "site.partition"),
        *_words("account charge_account", "site.account"),
        *_words("qos", "site.qos"),
        *_words("container image container_image", "site.container.image"),
        *_words("checkout nemo_rl_path repo repo_path", "site.checkout"),
        *_words("hf_home hf_cache cache_dir", "site.hf_home"),
        *_words("modules module", "site.modules"),
        *_words("name run run_name exp_name experiment experiment_name", "run.name"),
        *_words("tag tags", "run.tags"),
        *_words("results output output_dir out_dir results_dir", "run.results"),
        *_words("log_dir", "logger.log_dir"),
        *_words("wandb use_wandb", "logger.wandb_enabled", "logger.wandb.project"),
        *_words("project wandb_project project_name", "logger.wandb.project"),
        *_words("entity wandb_entity", "logger.wandb.entity"),
        *_words("tensorboard", "logger.tensorboard_enabled"),
        *_words("max_parallel concurrency max_concurrent num_parallel", "parallel"),
        *_words("depends dependency depends_on", "after"),
        *_words("dry dryrun", "dry_run"),
    ]
)


def meant(key: str) -> Meant | None:
    """What a key's last word means by the table; None where it says nothing."""
    return MEANT.get(key.rsplit(".", 1)[-1].lower().replace("-", "_"))
