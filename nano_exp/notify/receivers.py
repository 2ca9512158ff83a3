"""`site.notify`: who is told, how, and of what. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from nano_exp.errors import UserError, nearest
from nano_exp.notify.message import SHAPES, About

WAYS = ("command", "webhook", "email")
ABOUT: tuple[About, ...] = get_args(About)
KEYS = (*WAYS, "form", "on")
EXAMPLE = "[{webhook: SLACK_WEBHOOK, form: slack}]"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Receiver:
    """One entry of site.notify.

    Parameters
    ----------
    way: command, webhook or email
    where: a shell line, the name of the environment variable that holds the address, or a mailbox
    form: of a webhook: json, slack, discord or teams
    about: what it is told of
    """

    way: str
    where: str
    form: str = "json"
    about: tuple[About, ...] = ABOUT

    def __str__(self) -> str:
        return f"{self.way} {self.where}"


def receivers(section: Any) -> list[Receiver]:
    """The receivers of site.notify, in order; none where it is null or empty.

    Raises
    ------
    UserError: it is not a list of such entries
    """
    if section is None:
        return []
    if not isinstance(section, list | tuple):
        raise _wrong("site.notify", section, "it is a list, one entry a receiver", f"site.notify='{EXAMPLE}'")
    return [_receiver(f"site.notify[{place}]", entry) for place, entry in enumerate(section)]


def _receiver(key: str, entry: Any) -> Receiver:
    if not isinstance(entry, Mapping):
        raise _wrong(key, entry, f"an entry has one of {', '.join(WAYS)}", EXAMPLE)
    unknown = [str(name) for name in entry if name not in KEYS]
    if unknown:
        near = nearest(unknown[0], KEYS)
        raise _wrong(
            f"{key}.{unknown[0]}", entry[unknown[0]], f"the keys are {', '.join(KEYS)}", f"{(near or KEYS)[0]}: ..."
        )
    ways = [way for way in WAYS if entry.get(way)]
    if len(ways) != 1 or not isinstance(entry[ways[0]], str):
        raise _wrong(key, dict(entry), f"an entry has exactly one of {', '.join(WAYS)}, a text", EXAMPLE)
    way, where = ways[0], entry[ways[0]]
    form = entry.get("form") or "json"
    if form not in SHAPES or (way != "webhook" and "form" in entry):
        raise _wrong(f"{key}.form", form, f"of a webhook one of {', '.join(SHAPES)}", "form: slack")
    if way == "webhook" and not _VARIABLE.fullmatch(where):
        raise UserError(
            f"{key}.webhook is not the name of a variable",
            "whoever has a webhook's address may write there: it is a secret, and a config is no place for one",
            "webhook: SLACK_WEBHOOK, and SLACK_WEBHOOK: https://... in env.yaml",
        )
    if way == "email" and not re.fullmatch(r"[^\s@,;]+@[^\s@,;]+", where):
        raise _wrong(f"{key}.email", where, "it is one address", "email: me@example.org")
    return Receiver(way, where, form, _about(key, entry.get("on")))


def _about(key: str, on: Any) -> tuple[About, ...]:
    if on is None:
        return ABOUT
    listed = [on] if isinstance(on, str) else on
    if not isinstance(listed, list | tuple) or not listed or any(one not in ABOUT for one in listed):
        raise _wrong(f"{key}.on", on, f"it lists some of {', '.join(ABOUT)}", "on: [done, failed]")
    return tuple(one for one in ABOUT if one in listed)


def _wrong(key: str, value: Any, why: str, fix: str) -> UserError:
    return UserError(f"{key}={value!r}", why, fix)
