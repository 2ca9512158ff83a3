"""Plain values as Hydra and OmegaConf read them: a typed word, and the interpolations of a config of plain data.

Both take only what has one reading (`NotPlain` for the rest). Their rules are those of Hydra's OverrideLexer.g4 and
OmegaConf's OmegaConfGrammarLexer.g4, which have the same primitives.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nano_exp.compose.arithmetic import FUNCTIONS


class NotPlain(Exception):
    """Something that is left to Hydra and OmegaConf."""


class Word(NamedTuple):
    """`key=value` as it was typed; `forced`: with ++."""

    key: str
    value: Any
    forced: bool


_WORD = re.compile(r"(\+\+)?([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=([A-Za-z0-9_./@+-]+)", re.ASCII)
_INT = r"(?:0|[1-9](?:_?[0-9])*)"
_DIGITS = r"[0-9](?:_?[0-9])*"
_POINT = rf"(?:{_INT}\.|{_INT}?\.{_DIGITS})"
_IS_INT = re.compile(rf"[+-]?{_INT}")
_IS_FLOAT = re.compile(rf"[+-]?(?:{_POINT}|(?:{_INT}|{_POINT})[eE][+-]?{_DIGITS}|inf|nan)", re.IGNORECASE)


def word(override: str) -> Word | None:
    """An override that sets a plain value; None for any other one."""
    match = _WORD.fullmatch(override)
    return Word(match[2], primitive(match[3]), bool(match[1])) if match else None


def primitive(text: str) -> Any:
    """A text without quotes, escapes and spaces, as the grammars read it: null, a truth value, a number, or itself."""
    lower = text.lower()
    if lower in ("null", "true", "false"):
        return {"null": None, "true": True, "false": False}[lower]
    if _IS_INT.fullmatch(text):
        return int(text)
    if _IS_FLOAT.fullmatch(text):
        return float(text)
    return text


_RANGE = re.compile(r"((?:\+\+)?[A-Za-z_][\w.]*)=range\((-?[0-9]{1,9}),(-?[0-9]{1,9})\)", re.ASCII)


def axis(override: str) -> list[str]:
    """The overrides that `key=a,b` or `key=range(1,3)` stands for, as Hydra writes them; any other one itself."""
    if match := _RANGE.fullmatch(override):
        return [f"{match[1]}={value}" for value in range(int(match[2]), int(match[3]))]
    key, _, text = override.partition("=")
    words = [word(f"{key}={value}") for value in text.split(",")]
    values = [one.value for one in words if one is not None]
    if len(words) == 1 or len(values) < len(words):
        return [override]
    return [f"{key}={shown(value)}" for value in values]


def shown(value: Any) -> str:
    """A value as Hydra writes it into the overrides of a sweep's points."""
    return "null" if value is None else str(value)


def put(config: dict[str, Any], typed: Word) -> None:
    """Set a typed value in the place of one that is there. Raises NotPlain where that is not so."""
    *path, last = typed.key.split(".")
    node: Any = config
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict) or last not in node or isinstance(node[last], dict | list):
        raise NotPlain(typed.key)
    node[last] = typed.value


_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[\w-]+|\[\w+\])*)\}", re.ASCII)
_CALL = re.compile(r"\$\{([A-Za-z_][\w.]*):")
_ARGUMENT = re.compile(r"[A-Za-z0-9_./@+-]+")
_LONE_DOLLAR = re.compile(r"\$(?!\{)")


class Resolver:
    """Computes the interpolations of a config.

    Parameters
    ----------
    config: plain data, whose texts with `${` are interpolations
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._busy: set[str] = set()

    def resolved(self, node: Any) -> Any:
        """A copy of a node with all values computed. Raises NotPlain for an interpolation that is not plain."""
        if isinstance(node, dict):
            return {key: self.resolved(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.resolved(value) for value in node]
        if not isinstance(node, str):
            return node
        if node == "???":
            raise NotPlain("a missing value")
        return self._text(node) if "${" in node else node

    def typed(self, section: Mapping[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
        """A section whose values have kinds, by the names of their types. Raises NotPlain where one has another."""
        values = {key: self.resolved(value) for key, value in section.items()}
        for key, value in values.items():
            if key in kinds and value is not None and type(value).__name__ != kinds[key]:
                raise NotPlain(f"{key}={value}")
        return values

    def _text(self, text: str) -> Any:
        if "\\" in text or text in self._busy or _LONE_DOLLAR.search(text):
            raise NotPlain(text)
        self._busy.add(text)
        value, end = self._interpolation(text, 0) if text.startswith("${") else (None, -1)
        if end != len(text):
            value = self._joined(text)
        self._busy.discard(text)
        return value

    def _joined(self, text: str) -> str:
        parts, place = [], 0
        while place < len(text):
            if text.startswith("${", place):
                value, place = self._interpolation(text, place)
                if isinstance(value, dict | list):
                    raise NotPlain(text)
                parts.append(str(value))
            else:
                end = text.find("$", place)
                end = len(text) if end < 0 else end
                parts.append(text[place:end])
                place = end
        return "".join(parts)

    def _interpolation(self, text: str, place: int) -> tuple[Any, int]:
        """The value of the interpolation that begins at a place, and where it ends."""
        if match := _REFERENCE.match(text, place):
            return self._at(re.split(r"[.\[]", match[1].replace("]", ""))), match.end()
        if not (match := _CALL.match(text, place)):
            raise NotPlain(text)
        arguments, end = self._arguments(text, match.end())
        return _call(match[1], arguments), end

    def _arguments(self, text: str, place: int) -> tuple[list[Any], int]:
        values: list[Any] = []
        while True:
            while text.startswith(" ", place):
                place += 1
            if text.startswith("${", place):
                value, place = self._interpolation(text, place)
            elif match := _ARGUMENT.match(text, place):
                value, place = primitive(match[0]), match.end()
            else:
                raise NotPlain(text)
            values.append(value)
            while text.startswith(" ", place):
                place += 1
            if text.startswith("}", place):
                return values, place + 1
            if not text.startswith(",", place):
                raise NotPlain(text)
            place += 1

    def _at(self, path: list[str]) -> Any:
        node: Any = self.config
        for part in path:
            if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                raise NotPlain(".".join(path))
        return self.resolved(node)


def _call(name: str, arguments: list[Any]) -> Any:
    if name == "oc.env" and 1 <= len(arguments) <= 2 and isinstance(arguments[0], str):
        if (value := os.environ.get(arguments[0])) is not None:
            if "$" in value or "\\" in value or value == "???":
                raise NotPlain(name)
            return value
        if len(arguments) == 2:
            return None if arguments[1] is None else str(arguments[1])
    function: Callable[[Any, Any], Any] | None = FUNCTIONS.get(name)
    if function is None or len(arguments) != 2:
        raise NotPlain(name)
    try:
        return function(*arguments)
    except (TypeError, ArithmeticError) as error:
        raise NotPlain(name) from error
