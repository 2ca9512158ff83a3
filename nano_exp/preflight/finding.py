"""What preflight says: one finding a mistake, with its rule, keys, cause and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One mistake in one config.

    Parameters
    ----------
    rule: the rule's name, as `ignore=[...]` takes it
    severity: an error stops the launch, a warning is shown
    keys: the dotted keys involved, each with its value as text
    cause: why it cannot work, or what it does instead
    fix: what to type
    subject: what was found, where that is no key of the config
    """

    rule: str
    severity: Severity
    keys: tuple[tuple[str, str], ...]
    cause: str
    fix: str
    subject: str = ""

    @property
    def found(self) -> str:
        """What was found, with the values."""
        return self.subject or ", ".join(f"{key}={value}" for key, value in self.keys)
