"""One key of a frozen config, judged alone: is it read, and is its value of the right kind?"""

from __future__ import annotations

from nano_exp.compose.freeze import Frozen
from nano_exp.preflight.registry import RULES
from nano_exp.preflight.run import findings
from nano_exp.preflight.view import View

#: The rules about keys as such, of each engine.
_OF_KEYS = ("unknown_key", "value_type", "no_effect", "embedded_engine")


def of_key(frozen: Frozen, key: str) -> bool:
    """Whether one of the rules about keys has something to say of it."""
    view = View(frozen.config, frozen.overrides)
    rules = [RULES[name] for name in _OF_KEYS if RULES[name].engine == view.engine and RULES[name].holds(view.version)]
    about_keys = findings(view, rules)
    return any(key in dict(one.keys) or one.subject.startswith(f"{key}=") for one in about_keys)
