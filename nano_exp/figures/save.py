"""A picture into a file, whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.errors import UserError
from nano_exp.results.charts import Chart
from nano_exp.results.ranking import Ranking

#: Text stays text where the format can hold its font (PDF: TrueType), and is drawn as outlines in SVG: both look the
#: same everywhere. No date in the file: equal runs give equal files.
SETTINGS: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "nano-exp",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 7,
    "hatch.linewidth": 0.4,
}
UNDATED: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def picture(ranking: Ranking, kind: str, metrics: Sequence[Chart], output: Path, dpi: int) -> None:
    """Draw and write.

    Raises
    ------
    UserError: matplotlib is not installed, nothing to draw, or the file cannot be written
    """
    try:
        from matplotlib import rc_context  # heavy, and this command's alone
    except ImportError:
        raise UserError(
            "nano-exp plot", "it draws with matplotlib, which is not installed here", "pip install 'nano-exp[results]'"
        ) from None
    from nano_exp.figures.draw import KINDS

    aside = output.with_name(f".{uuid.uuid4().hex[:8]}{output.suffix}")
    with rc_context(SETTINGS):
        figure = KINDS[kind](ranking, metrics)
        try:
            figure.savefig(aside, dpi=dpi, metadata=UNDATED[output.suffix])
            aside.replace(output)
        except OSError as error:
            raise files.unwritable(output, error, "-o ") from None
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
