"""The hub and W&B, asked only where that was wanted."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

from nano_exp.doctor.check import Said, check, fine, skipped, warning
from nano_exp.doctor.place import Place

HUB, WANDB = "https://huggingface.co", "https://api.wandb.ai"
TIMEOUT_S = 3.0


@check(2 * TIMEOUT_S + 1)
def network(place: Place) -> Iterator[Said]:
    """The hub and W&B answer from this host (--network)."""
    if not place.network:
        yield skipped("not asked; --network asks the hub and W&B")
        return
    for what, url, fix in (
        ("the hub", place.environ.get("HF_ENDPOINT") or HUB, "site.network=false, and models in site.hf_home"),
        ("W&B", place.environ.get("WANDB_BASE_URL") or WANDB, "WANDB_MODE=offline, and nano-exp sync from elsewhere"),
    ):
        problem = unreachable(url)
        if problem:
            why = f"{what} cannot be reached from this host, and likely not from the nodes"
            yield warning(f"{url}: {problem}", why, f"{fix}; https_proxy=... where the site has a proxy")
        else:
            yield fine(f"{what} answers ({url})")


def unreachable(url: str) -> str:
    """Why a service does not answer; empty where it does, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT_S):
            return ""
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, ValueError) as error:
        return str(error)
