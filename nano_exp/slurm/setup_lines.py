"""The set-up lines of a batch script: the first that fails ends the run's attempt, and is its cause.

They run before there is an attempt. So the script starts one all the same, which claims its run and says so.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files
from nano_exp.credentials import redact

#: How the script tells the attempt: the exit code and the command.
VARIABLE = "NANO_EXP_SETUP_FAILED"
#: Most lines of the command's own words that are shown.
WORDS = 8
#: ERR does not reach into functions, and what fails inside a sourced file is that file's own business.
_GUARD = f"""\
nano_exp_setup_failed() {{
  local code=$?
  [ "$2" = EXIT ] || [ "${{#BASH_SOURCE[@]}}" -eq 2 ] || return 0
  trap - ERR EXIT
  export {VARIABLE}="$code $1"
  @COMMAND@
}}
trap 'nano_exp_setup_failed "$BASH_COMMAND" ERR' ERR
trap 'nano_exp_setup_failed "$BASH_COMMAND" EXIT' EXIT"""


def setup(site: Mapping[str, Any]) -> list[str]:
    """The site's modules, then its own lines."""
    modules = [str(name) for name in site.get("modules") or ()]
    lines = []
    if modules:
        # Slurm's batch shell is not a login shell: on many sites `module` is defined by a login's profile alone.
        lines += ["type module >/dev/null 2>&1 || . /etc/profile || true", f"module load {shlex.join(modules)}"]
    return [*lines, *map(str, site.get("setup") or ())]


def guarded(lines: Sequence[str], command: str) -> list[str]:
    """Lines of bash of which the first that fails, or ends the script, starts the attempt with word of it.

    Parameters
    ----------
    command: what starts the attempt
    """
    if not lines:
        return []
    return [_GUARD.replace("@COMMAND@", command), *lines, "trap - ERR EXIT"]


@dataclass(frozen=True)
class Failed:
    """A set-up line that failed: its exit code, the command as it stands there, and what it said last."""

    code: int
    command: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"`{self.command}` ended with exit code {self.code}"

    def for_log(self, host: str) -> str:
        """For the attempt's stderr.log, where triage finds it."""
        lines = [f"nano-exp: site.setup failed on {host}: {self}", *(f"  | {line}" for line in self.words)]
        return redact("\n".join(lines) + "\n")


def failed(environ: MutableMapping[str, str], stderr: Path = Path("/proc/self/fd/2")) -> Failed | None:
    """What the script told, taken out of the environment; None where no line failed. Before anything is printed."""
    failure = environ.pop(VARIABLE, "")
    code, _, command = failure.partition(" ")
    if not code.isdigit():
        return None
    lines: list[str] = []
    if stderr.is_file():  # Slurm's file for the job's output; a terminal has no last lines
        lines = [line for line in files.tail(Path(os.path.realpath(stderr)), 4096).splitlines() if line.strip()]
    return Failed(int(code), command, tuple(lines[-WORDS:]))
