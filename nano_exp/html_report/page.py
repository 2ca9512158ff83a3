"""A document packed into one HTML file."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files as resources
from typing import Any

from nano_exp.errors import UserError


def page(document: Mapping[str, Any]) -> str:
    """The file's text. Nothing of the document is HTML in it: it is packed, and the page's script makes text of it.

    Raises
    ------
    UserError: Plotly is not installed
    """
    here = resources(__package__)
    parts = {
        "TITLE": html.escape(str(document["title"])),
        "CSS": (here / "page.css").read_text(encoding="utf-8"),
        "JS": (here / "page.js").read_text(encoding="utf-8"),
        "DATA": _packed(json.dumps(document, separators=(",", ":"), allow_nan=False).encode()),
        "LIBRARY": _plotly(),
    }
    text = (here / "page.html").read_text(encoding="utf-8")
    for name, part in parts.items():
        before, mark, after = text.partition(f"<!--{name}-->")
        assert mark, name
        text = before + part + after
    return text


@cache
def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # heavy, and this command's alone
    except ImportError:
        raise UserError(
            "nano-exp report",
            "it draws with Plotly, which is not installed here",
            "pip install 'nano-exp[results]'",
        ) from None
    return _packed(get_plotlyjs().encode())


def _packed(raw: bytes) -> str:
    """Gzipped (with no time of day in it: equal runs give equal files), in letters that HTML leaves alone."""
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()
