"""GPU types as Slurm sites name them, and their memory."""

from __future__ import annotations

from functools import cache

#: Type in a site's GRES (lower case) -> memory of one GPU in GB, as NVIDIA's data sheets have it. Types that are sold
#: with two sizes stand with the larger one: nothing is said against them.
GB: dict[str, int] = {
    "b200": 180,
    "h200": 141,
    "gh200": 144,
    "h100": 80,
    "h800": 80,
    "a100": 80,
    "a800": 80,
    "l40s": 48,
    "l40": 48,
    "a40": 48,
    "a6000": 48,
    "rtx_6000": 48,
    "rtx8000": 48,
    "v100": 32,
    "rtx5090": 32,
    "a30": 24,
    "a10": 24,
    "a5000": 24,
    "l4": 24,
    "rtx4090": 24,
    "rtx3090": 24,
    "rtx2080ti": 11,
    "t4": 16,
    "p100": 16,
}


@cache
def too_small(kind: str, needed_gb: float) -> bool:
    """Whether a GPU of this type has certainly less memory; False for a type that is not known."""
    return GB.get(kind, needed_gb) < needed_gb
