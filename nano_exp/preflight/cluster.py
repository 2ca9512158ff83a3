"""How the GPUs are shared between training, generation and a reward model, and the CPUs beside them."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View
from nano_exp.slurm import shapes

RESOURCES = "policy.generation.colocated.resources"


@rule(6)
def training_gpus(c: View) -> Iterator[Mistake]:
    """A reward model on GPUs of its own has to leave some for training."""
    nodes, gpus = c.reward_model
    if not nodes and not gpus:
        return
    if c.nodes == 1 and c.gpus is not None and c.gpus - gpus <= 0 and c.colocated:
        yield Mistake(
            ("cluster.gpus_per_node", "env.reward_model.resources.gpus_per_node"),
            "the reward model takes all GPUs of the node and none is left to train",
            f"env.reward_model.resources.gpus_per_node={max(1, c.gpus // 2)}, or cluster=2n8g",
        )
    elif c.nodes is not None and c.nodes > 1 and c.nodes - nodes <= 0:
        yield Mistake(
            ("cluster.num_nodes", "env.reward_model.resources.num_nodes"),
            "the reward model takes all nodes and none is left to train",
            f"++cluster.num_nodes={nodes + 1}",
        )


@rule(7)
def one_node_split(c: View) -> Iterator[Mistake]:
    """Generation beside training on one node takes some of its GPUs."""
    if c.colocated or c.policy_nodes != 1 or c.gpus is None:
        return
    generating, nodes = c.number(f"{RESOURCES}.gpus_per_node"), c.get(f"{RESOURCES}.num_nodes")
    for_reward = c.reward_model[1] if c.nodes == 1 else 0
    half = max(1, (c.gpus - for_reward) // 2)
    if generating is None or generating <= 0:
        yield Mistake(
            ("policy.generation.colocated.enabled", f"{RESOURCES}.gpus_per_node"),
            "generation has GPUs of its own, and the config does not say how many of each node's",
            f"{RESOURCES}.gpus_per_node={half}",
        )
    elif nodes is not None and nodes != 1:
        yield Mistake(
            (f"{RESOURCES}.num_nodes", "cluster.num_nodes"),
            "there is one node, which training and generation share",
            f"{RESOURCES}.num_nodes=null",
        )
    elif c.gpus - generating - for_reward <= 0:
        yield Mistake(
            (f"{RESOURCES}.gpus_per_node", "cluster.gpus_per_node"),
            "generation takes all GPUs of the node and none is left to train",
            f"{RESOURCES}.gpus_per_node={half}",
        )


@rule(8)
def several_nodes_split(c: View) -> Iterator[Mistake]:
    """Generation beside training on several nodes takes whole nodes."""
    if c.colocated or c.policy_nodes is None or c.policy_nodes < 2 or c.gpus is None:
        return
    nodes, gpus = c.number(f"{RESOURCES}.num_nodes"), c.get(f"{RESOURCES}.gpus_per_node")
    if nodes is None or nodes <= 0:
        yield Mistake(
            ("policy.generation.colocated.enabled", f"{RESOURCES}.num_nodes", "cluster.num_nodes"),
            "generation has nodes of its own, and the config does not say how many",
            f"{RESOURCES}.num_nodes={c.policy_nodes // 2} {RESOURCES}.gpus_per_node={c.gpus}",
        )
        return
    if gpus != c.gpus:
        yield Mistake(
            (f"{RESOURCES}.gpus_per_node", "cluster.gpus_per_node"),
            "a node is either for generation or for training, with all its GPUs",
            f"{RESOURCES}.gpus_per_node={c.gpus}",
        )
    if c.policy_nodes - nodes <= 0:
        yield Mistake(
            (f"{RESOURCES}.num_nodes", "cluster.num_nodes"),
            "generation takes all nodes and none is left to train",
            f"{RESOURCES}.num_nodes={c.policy_nodes - 1}",
        )


@rule(39)
def cpus_for_ray(c: View) -> Iterator[Mistake]:
    """Ray reserves CPUs beside each GPU: one for training, one more for generation on the same GPU."""
    cpus = c.launcher("slurm").get("cpus_per_node")
    if (
        c.gpus is None or not c.on_slurm or shapes.whole_nodes(c.site.get("allocation"), c.engine)
    ):  # a whole node has what it has
        return
    each = 2 if c.colocated and c.get("policy.generation.backend") != "megatron" else 1
    needed, of_gpu = each * c.gpus, c.site.get("cpus_per_gpu")
    why = (
        f"NeMo RL's placement groups ask Ray for {each} CPU{'s' if each > 1 else ''} beside each of the "
        f"{c.gpus} GPUs of a node, {needed} in all, and stop when they are not there"
    )
    if type(cpus) is int and cpus < needed:
        fix = f"leave slurm.cpus_per_node out, or slurm.cpus_per_node={max(16, needed)}"
        yield Mistake((), why, fix, f"slurm.cpus_per_node={cpus}, cluster.gpus_per_node={c.gpus}")
    elif cpus is None and type(of_gpu) is int and of_gpu < each:
        yield Mistake((), why, f"site.cpus_per_gpu={each} or more", f"site.cpus_per_gpu={of_gpu}")
