"""What NeMo RL makes once and runs share, where it is not there yet: said before a launch, with what will happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from nano_exp import alike
from nano_exp.nemo_rl import caches, checkout
from nano_exp.preflight.registry import Mistake, rule
from nano_exp.preflight.view import View

REBUILD = "NRL_FORCE_REBUILD_VENVS"


#: What a run shares with others, and the downloads of its model by each of its nodes, in words.
Needs = tuple[tuple[caches.Cache, ...], tuple[str, ...]]


def needs(config: Mapping[str, Any], environ: Mapping[str, str]) -> Needs:
    """What a run needs that may not be made yet."""
    return tuple(caches.of(config, environ)), tuple(_downloads(config))


def cold(configs: Sequence[Mapping[str, Any]], environ: Mapping[str, str]) -> list[list[str]]:
    """What each run would have to make before it trains, in words; each folder is looked at once."""
    look = cache(caches.cold)
    return [look(shared) for shared in alike.each(configs, lambda config: tuple(caches.of(config, environ)))]


def lines(all_needs: Sequence[Needs], configs: Sequence[Mapping[str, Any]], prepare: Callable[[], str]) -> list[str]:
    """What is not made yet, a line each, and who makes it; nothing where all is there.

    Parameters
    ----------
    all_needs: of these configs, by themselves
    prepare: gives the command that makes it ahead
    """
    shared = dict.fromkeys(shared for shared, _ in all_needs)
    missing = list(dict.fromkeys(word for one in shared for word in caches.cold(one)))
    missing += dict.fromkeys(word for _, words in all_needs for word in words)
    if not missing:
        return []
    who = "the run makes" if len(configs) == 1 else "one run makes, and those that need them wait for,"
    return [f"cold caches: before it trains {who}", *(f"  {word}" for word in missing), *_idle(configs, prepare())]


def _downloads(config: Mapping[str, Any]) -> Iterator[str]:
    """The model's weights, where every node is free to download them; elsewhere model_there has a word on them."""
    site, name = config.get("site") or {}, str((config.get("policy") or {}).get("model_name") or "")
    hub = (config.get("engine") or {}).get("name") == "nemo_rl" and not name.startswith(("/", ".", "~"))
    if hub and site.get("network") is True and site.get("hf_home") and not checkout.snapshot(name, site["hf_home"]):
        parameters = (config.get("model") or {}).get("total_parameters")
        size = f", about {2 * parameters / 1e9:.0f} GB" if parameters else ""
        yield f"the download of {name}{size}, by each node"


def _idle(configs: Sequence[Mapping[str, Any]], prepare: str) -> list[str]:
    """What that costs, and what avoids it."""
    gpus = max(
        int(config["cluster"].get("num_nodes") or 1) * int(config["cluster"].get("gpus_per_node") or 0)
        for config in configs
    )
    idle = f"with {gpus} GPU{'s' if gpus > 1 else ''} idle; made ahead by" if gpus else "made ahead by"
    return [f"  {idle}", f"  {prepare}"]


@rule(place=True)
def rebuilt_environments(c: View) -> Iterator[Mistake]:
    """No run removes the workers' environments under others that use them.

    `shutil.rmtree(venv_path)` (utils/venvs.py create_local_venv), at each start, whoever else runs.
    """
    value = c.site_env.get(REBUILD, c.facts.environ.get(REBUILD, ""))
    if str(value).lower() != "true":
        return
    runs = sum(c.facts.new.values())
    yield Mistake(
        (),
        "each run removes the environments of its workers when it starts, and others that train with them die of it",
        f"+site.env.{REBUILD}=false; to have them made anew, remove their folder while no run uses it",
        f"{REBUILD}={value}",
        severity="error" if runs > 1 else "warning",
    )
