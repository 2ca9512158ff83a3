"""Remedies for hosts, files, models, data, programs and the cluster."""

from __future__ import annotations

from nano_exp.triage.knobs import Knobs
from nano_exp.triage.remedies import either, remedy
from nano_exp.triage.signs import Reading

# --- host -----------------------------------------------------------------------------------------------------------


@remedy("host_oom")
def host_oom(knobs: Knobs, reading: Reading, phase: str) -> str:
    back = ""
    if knobs.backend == "dtensor_cfg" and knobs.get("policy.dtensor_cfg.cpu_offload"):
        back = knobs.set("policy.dtensor_cfg.cpu_offload", False)
    elif knobs.backend and knobs.get("policy.megatron_cfg.optimizer.optimizer_cpu_offload"):
        key = "policy.megatron_cfg.optimizer"
        back = (
            f"{knobs.set(f'{key}.optimizer_cpu_offload', False)} {knobs.set(f'{key}.optimizer_offload_fraction', 0.0)}"
        )
    return either(
        "" if "memory monitor" in reading.detail else "hydra.launcher.mem_gb=0 (all of the node's memory)",
        back,
        "cluster=2n8g" if knobs.nodes == 1 else "more nodes",
    )


@remedy("disk_full")
def disk_full(knobs: Knobs, reading: Reading, phase: str) -> str:
    if reading.subject.startswith("/dev/shm"):
        return "give the node's /dev/shm room: other jobs' leavings, or the container's --shm-size"
    if reading.subject.startswith(("/tmp", "/var", "/run")):
        return knobs.env("RAY_TMPDIR", "/path/on/a/large/local/disk") + ", or free that disk"
    return f"free space there; {keep_fewer(knobs)}, then launch again: it resumes"


@remedy("quota")
def quota(knobs: Knobs, reading: Reading, phase: str) -> str:
    return f"remove what is not needed (`quota -s`, `lfs quota`); {keep_fewer(knobs)}, or run.results=/another/disk"


def keep_fewer(knobs: Knobs) -> str:
    keep_top_k = knobs.whole("checkpointing.keep_top_k")
    if keep_top_k is None or keep_top_k > 1:
        return knobs.set("checkpointing.keep_top_k", 1)
    return knobs.set("checkpointing.save_period", 2 * (knobs.whole("checkpointing.save_period") or 10))


# --- models and data ------------------------------------------------------------------------------------------------


@remedy("model_missing")
def model_missing(knobs: Knobs, reading: Reading, phase: str) -> str:
    name = knobs.get("policy.model_name") or reading.subject or "the model"
    if reading.subject == "offline":
        by_hand = f"HF_HOME=<site.hf_home>: `hf download {name}`"
        return f"download it where there is a network: {knobs.prepare('model') or by_hand}"
    if reading.subject.startswith("/"):
        return f"put the model's weights (*.safetensors) into {reading.subject}, or policy.model_name=/another/folder"
    return f"policy.model_name is {name}: name a repository on the hub (a private one needs HF_TOKEN) or a folder"


@remedy("model_gated")
def model_gated(knobs: Knobs, reading: Reading, phase: str) -> str:
    name = reading.subject or knobs.get("policy.model_name") or "the model"
    return f"accept the terms at https://huggingface.co/{name} and export HF_TOKEN of that account before launching"


@remedy("token_invalid")
def token_invalid(knobs: Knobs, reading: Reading, phase: str) -> str:
    if reading.subject == "WANDB_API_KEY":
        return "export WANDB_API_KEY=... before launching, or logger.wandb_enabled=false"
    return "export HF_TOKEN=... (a valid one) before launching; it stays in the environment"


@remedy("wandb_refused")
def wandb_refused(knobs: Knobs, reading: Reading, phase: str) -> str:
    entity = knobs.get("logger.wandb.entity")
    what = f"logger.wandb.entity is {entity}: it" if entity else "logger.wandb.entity and project"
    return f"{what} must be a place that WANDB_API_KEY may write to; or logger.wandb_enabled=false"


OFFLINE = "WANDB_MODE", "offline"


@remedy("rate_limited")
def rate_limited(knobs: Knobs, reading: Reading, phase: str) -> str:
    if "wandb" in reading.subject:
        return f"launch again later; or {knobs.env(*OFFLINE)} and `nano-exp sync` later"
    if "huggingface" in reading.subject or not reading.subject:
        return (
            f"download the model once into site.hf_home ({knobs.prepare('model') or '`hf download NAME`'}), then "
            f"{knobs.env('HF_HUB_OFFLINE', '1')}; HF_TOKEN raises the limit"
        )
    return f"fewer requests at once to {reading.subject}: grpo.num_prompts_per_step, or runs beside each other"


@remedy("network")
def network(knobs: Knobs, reading: Reading, phase: str) -> str:
    if "huggingface" in reading.subject:
        return (
            f"launch again; without a network there: {knobs.prepare('model') or '`hf download NAME`'} into "
            "site.hf_home first, and "
            f"{knobs.env('HF_HUB_OFFLINE', '1')}"
        )
    return f"launch again; if it comes back, `curl -I https://{reading.subject or 'HOST'}` on that node"


@remedy("data_missing")
def data_missing(knobs: Knobs, reading: Reading, phase: str) -> str:
    if path := knobs.get("data.train.data_path"):
        if "workplace_assistant" in str(path) and (made := knobs.prepare("data")):
            return f"{made} makes NeMo Gym's own; others: data.train.data_path=/absolute/path (validation likewise)"
        return "data.train.data_path=/absolute/path (validation likewise); relative ones start at site.checkout"
    if name := knobs.get("data.train.dataset_name"):
        return f"data.train.dataset_name is {name}: it must be one that NeMo RL knows; a private one needs HF_TOKEN"
    return "name data that every node sees: data=..., or the keys under data.train"


@remedy("import_error")
def import_error(knobs: Knobs, reading: Reading, phase: str) -> str:
    python = "site.python=/path/to/python of NeMo RL's environment"
    made = "" if knobs.get("site.python") else knobs.prepare("driver")
    return (
        f"{made} makes the checkout's own; or {python}" if made else f"{python} (site.checkout's own: `uv sync` there)"
    )


@remedy("config_refused")
def config_refused(knobs: Knobs, reading: Reading, phase: str) -> str:
    if reading.subject:
        return f"++{reading.subject}=VALUE as NeMo RL {knobs.get('nemo_rl.version') or ''} wants it".replace("  ", " ")
    return "change the keys that the message names; `nano-exp render ...` shows what NeMo RL gets"


def fewer_prompts(knobs: Knobs) -> str:
    prompts = knobs.whole("grpo.num_prompts_per_step")
    return knobs.set("grpo.num_prompts_per_step", prompts // 2) if prompts and prompts > 1 else ""


@remedy("no_steps")
def no_steps(knobs: Knobs, reading: Reading, phase: str) -> str:
    return either(fewer_prompts(knobs), "a larger data set")


@remedy("nan")
def nan(knobs: Knobs, reading: Reading, phase: str) -> str:
    lr = knobs.real("optimizer.lr", None)
    slower = knobs.set("optimizer.lr", float(f"{lr / 2:.3g}")) if lr else "a smaller optimizer.lr"
    clip = knobs.real("policy.max_grad_norm", None)
    tighter = knobs.set("policy.max_grad_norm", 0.5) if clip and clip > 0.5 else ""
    return either(slower, tighter, "fresh=true if the last checkpoint already has NaN")


# --- programs -------------------------------------------------------------------------------------------------------


@remedy("cuda_assert", "cuda_error")
def kernel(knobs: Knobs, reading: Reading, phase: str) -> str:
    if "no kernel image" in reading.detail:
        return "this build has no code for this GPU: " + knobs.env("TORCH_CUDA_ARCH_LIST", '"9.0 10.0"')
    return knobs.env("CUDA_LAUNCH_BLOCKING", "1") + " once: the traceback then shows the failing operation"


@remedy("segfault")
def segfault(knobs: Knobs, reading: Reading, phase: str) -> str:
    if "Bus error" in reading.detail:
        return "a bus error is mostly a full /dev/shm: give it room (the container's --shm-size)"
    return (
        knobs.env("PYTHONFAULTHANDLER", "1") + " once: it prints where; if it moves between nodes, suspect the driver"
    )


# --- the cluster ----------------------------------------------------------------------------------------------------


@remedy("port_in_use")
def port_in_use(knobs: Knobs, reading: Reading, phase: str) -> str:
    low, high = knobs.whole("cluster.master_port_range_low"), knobs.whole("cluster.master_port_range_high")
    if reading.subject.isdecimal() and low and high and low <= int(reading.subject) <= high:
        move = f"{knobs.set('cluster.master_port_range_low', low + 4000)} "
        return either("launch again", move + knobs.set("cluster.master_port_range_high", high + 4000))
    return "launch again: something else on that node holds it"


@remedy("node_limits")
def node_limits(knobs: Knobs, reading: Reading, phase: str) -> str:
    flag, limit, key = ("-u", "processes", "NPROC") if reading.subject == "nproc" else ("-n", "open files", "NOFILE")
    return (
        f"the node's limit of {limit} is too low (`ulimit -H{flag[1]}` there; NeMo RL wants 65535): its admins raise "
        f"Limit{key} of slurmd, or /etc/security/limits.conf"
    )


@remedy("ray_start")
def ray_start(knobs: Knobs, reading: Reading, phase: str) -> str:
    patience = knobs.env("RAY_worker_register_timeout_seconds", "300")
    return f"launch again; if it comes back: {patience}, and an environment on a local disk (site.python=)"


@remedy("nccl_timeout", "peer_timeout")
def waited_in_vain(knobs: Knobs, reading: Reading, phase: str) -> str:
    if phase == "checkpoint":
        return (
            "slow storage, not the config: checkpointing.checkpoint_dir=/a/faster/disk; the save that was cut does "
            "not count: launched again, it resumes from the one before"
        )
    return f"launch again; if it comes back: {knobs.env('NCCL_DEBUG', 'INFO')} and compare the ranks' last lines"


@remedy("gym_server")
def gym_server(knobs: Knobs, reading: Reading, phase: str) -> str:
    return either(
        f"read that server's own lines before it{knobs.logs()}",
        f"against host memory, which kills without a word: {fewer_prompts(knobs) or 'fewer grpo.num_prompts_per_step'}",
    )


@remedy("step_refused")
def step_refused(knobs: Knobs, reading: Reading, phase: str) -> str:
    srun_words = reading.detail.lower()
    if "processors" in srun_words or "cpus" in srun_words:
        return "slurm.cpus_per_node= at most what a node's job may have (`scontrol show job` names it)"
    if "gres" in srun_words or "generic resource" in srun_words:
        return "cluster.gpus_per_node= at most what the job has (`scontrol show job`, TRES)"
    if "mem" in srun_words:
        return "hydra.launcher.mem_gb=0 (all of the node's memory), or 'site.srun=[\"--mem=0\"]'"
    if "container" in srun_words:
        return "site.entry=pyxis needs Slurm's pyxis plugin on this cluster: site.entry=apptainer or bare without it"
    return "site.srun=[FLAGS] adds flags to the step, as this cluster's own examples of srun have them"


@remedy("ray_resources")
def ray_resources(knobs: Knobs, reading: Reading, phase: str) -> str:
    if reading.subject == "CPUs":
        return f"slurm.cpus_per_node={max(16, 2 * knobs.gpus_per_node)} (NeMo RL wants 2 for each GPU of a node)"
    return "launch again; if it comes back, a node gives fewer GPUs than cluster.gpus_per_node asks for"


@remedy("time_limit")
def time_limit(knobs: Knobs, reading: Reading, phase: str) -> str:
    period = knobs.whole("checkpointing.save_period")
    often = knobs.set("checkpointing.save_period", max(period // 2, 1)) if period and period > 1 else ""
    return either("launch again: it resumes from the last checkpoint", "hydra.launcher.timeout_min=MINUTES", often)


@remedy("node_setup")
def node_setup(knobs: Knobs, reading: Reading, phase: str) -> str:
    allowed = "end it with `|| true` where it may fail"
    if reading.subject == "site.setup":
        return f"edit that line of site.setup, site.modules or hydra.launcher.setup, or {allowed}"
    return f"edit the line of site.node_setup that failed, or {allowed}; of several nodes, nodes/ has the log"
