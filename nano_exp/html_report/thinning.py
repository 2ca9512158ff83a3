"""Curves cut down to what a picture can show, with every minimum and maximum kept. Pure."""

from __future__ import annotations

from collections.abc import Sequence

#: Points of a curve above which it is thinned: more than a chart of 360 pixels can show apart.
MOST = 400


def thinned(values: Sequence[float], most: int = MOST) -> list[int]:
    """The places of a curve to draw: first, last, and of each stretch of equal length its lowest and its highest point.

    Returns
    -------
    Places, rising; all of them where there are at most `most`.
    """
    count = len(values)
    if count <= most:
        return list(range(count))
    stretches = max(1, (most - 2) // 2)
    places = {0, count - 1}
    for part in range(stretches):
        stretch = range(part * count // stretches, (part + 1) * count // stretches)
        places.add(min(stretch, key=values.__getitem__))
        places.add(max(stretch, key=values.__getitem__))
    return sorted(places)


def knots(count: int, most: int = 120) -> list[int]:
    """Places at equal distances, first and last among them: enough for what only rises (time, tokens)."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
