"""Secrets never reach a file or a message: refuse a config that reads, holds or resembles one; redact what is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from nano_exp.errors import UserError
from nano_exp.overrides import Override

_SECRET_NAME = re.compile(
    r"(TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)", re.IGNORECASE
)
#: A key whose last part is one of these holds a secret; `stop_token_ids`, `train_mb_tokens`, `pad_token` do not.
_SECRET_KEY = re.compile(
    r"(?i:(^|_)(api_?key|secret|secret_key|password|passwd|credentials?|private_key|access_key|"
    r"(access|api|auth|bearer|hf|refresh|session)_token)$|^token$)|^[A-Z0-9_]*TOKEN$"
)
#: A secret given inside a text, as in a set-up line `export HF_TOKEN=...`; `HF_TOKEN=$(cat ...)` names none.
_ASSIGNED = re.compile(
    r"\b(?:[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY)=|api_?key\s*[:=]\s*)"
    r"['\"]?(?=[^\s$'\"])"
)
_ASSIGNED_VALUE = re.compile(rf"({_ASSIGNED.pattern})[^\s'\"]+")
#: Tokens by their published prefixes (Hugging Face, W&B, NVIDIA, OpenAI, GitHub, AWS), a W&B key's 40 hex digits, and
#: webhooks of Slack, Discord and Teams: whoever has their address may write there.
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|wandb_v\d_[A-Za-z0-9_]{16,}|nvapi-[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9_-]{20,}|"
    r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|AKIA[0-9A-Z]{16}|"
    r"hooks\.slack\.com/\S{8,}|discord(?:app)?\.com/api/webhooks/\S{8,}|(?:webhook\.office|logic\.azure)\.com\S{8,})"
)
#: A password inside an address, as in http_proxy=http://me:password@proxy:3128.
_IN_ADDRESS = re.compile(r"(?<=://)([^/\s:@#]*):(?!\$)[^/\s@]+(?=@(?!sha256:))")  # an image may end in @sha256:...
#: Variables that sound like a secret and say where one lies.
_PLACE = re.compile(r"_(PATH|FILE|DIR)$", re.IGNORECASE)
#: Shorter values are not looked for in texts: they would be found in words that have nothing to do with them.
MIN_LENGTH = 8
REMOVED = "[secret removed]"
_ENV = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?([A-Za-z_][A-Za-z0-9_]*)")
_FIX = "put it in env.yaml (see env.example.yaml) or in the environment (export HF_TOKEN=...): it is not written out"
_HEX40 = re.compile(r"^[0-9a-f]{40}$")

_remembered: dict[str, str] = {}


def secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return bool(_SECRET_NAME.search(name)) and not _PLACE.search(name)


def remember(values: Mapping[str, str]) -> None:
    """Count these values of env.yaml, name -> value, as secrets in this process."""
    _remembered.update(values)


def known() -> Mapping[str, str]:
    """Value -> the variable that holds it: what env.yaml gave, and the environment's variables that sound like secrets.

    Every line of a value of several lines counts too. Longest first, so that no part of one is left of another. The
    path of a file that is there, as in GOOGLE_APPLICATION_CREDENTIALS=/home/me/key.json, is no secret itself.
    """
    return _known(tuple(os.environ.items()), tuple(_remembered.items()))


@lru_cache(maxsize=1)  # a launch asks for each of its points
def _known(environ: tuple[tuple[str, str], ...], remembered: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    inherited = {name: value for name, value in environ if secret_name(name) and not _is_path(value)}
    by_name = {**inherited, **dict(remembered)}
    parts = {part.strip(): name for name, value in by_name.items() for part in (value, *value.splitlines())}
    return {part: parts[part] for part in sorted(parts, key=len, reverse=True) if len(part) >= MIN_LENGTH}


def _is_path(value: str) -> bool:
    return value.startswith("/") and os.path.exists(value)  # noqa: PTH110  Path.exists raises for overlong names


def looks_secret(key: str, value: Any) -> bool:
    """Whether a config value is, by its key or by its own look, a secret. `value` is never part of a message."""
    if not isinstance(value, str) or not value:
        return False
    leaf = key.rsplit(".", 1)[-1]
    if _SECRET_VALUE.search(value) or _ASSIGNED.search(value) or _IN_ADDRESS.search(value):
        return True
    if _SECRET_KEY.search(leaf) and not value.startswith("${"):
        return True
    return bool(_HEX40.match(value) and ("key" in leaf.lower() or "wandb" in key))


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text below a value with its dotted key; the items of a list share their list's key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner, key)


def refuse(config: Mapping[str, Any], where: str = "the config") -> None:
    """Check a config: first unresolved (interpolations as text), so that a secret is never even read.

    Raises
    ------
    UserError
        naming the key, never the value
    """
    secrets = known()
    for key, text in texts(config):
        for name in _ENV.findall(text):
            if _SECRET_NAME.search(name):
                raise UserError(
                    f"{key} in {where} reads ${{oc.env:{name}}}",
                    "the config is frozen into files and NeMo RL prints all of it: the secret would be written out",
                    f"remove {key}; {_FIX}",
                )
        if looks_secret(key, text):
            raise UserError(
                f"the value of {key} in {where} looks like a secret (not shown)",
                "the config is frozen into files, shown in plans and printed by NeMo RL",
                f"remove {key}; {_FIX}",
            )
        name = next((name for value, name in secrets.items() if value in text), None)
        if name is not None:
            raise UserError(
                f"the value of {key} in {where} holds that of {name} (not shown)",
                f"{name} counts as a secret, and the config is frozen into files and printed by NeMo RL",
                f"remove {key}: the engine has {name} in its environment; a setting that is not secret belongs in "
                "site.env, not in env.yaml",
            )


def refuse_overrides(overrides: Iterable[str]) -> None:
    """The same for overrides as typed: they stand in run.json, in plans and in job listings."""
    for override in overrides:
        typed = Override.parse(override)
        refuse({typed.name: typed.value}, "the command line")


def redact(text: str) -> str:
    """The text without known secrets (`known`) and without what looks like a token or an address's password."""
    for value in known():
        text = text.replace(value, REMOVED)
    text = _ASSIGNED_VALUE.sub(rf"\1{REMOVED}", text)
    return _IN_ADDRESS.sub(rf"\1:{REMOVED}", _SECRET_VALUE.sub(REMOVED, text))
