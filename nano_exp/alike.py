"""Asking one question of many configs that are nearly alike: once for all that have the same values of what it reads.

The points of a sweep differ in a few values, and most of what is asked of each reads none of them. Configs with the
same keys are a kind: a first one, and what the others have in its place. A question is asked of a config in which those
values are watched; its answer is that of every config of the kind that has the same values of the ones that were read.
That is exact for any question that depends on its config alone, however it goes about it: the values that were read
decide which others are, so that nobody has to say what a question depends on.

An answer must hold nothing of the config that it was made of.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Hashable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from nano_exp import dotted
from nano_exp.dotted import Keys, at, with_values

Answer = TypeVar("Answer")
Seen = TypeVar("Seen")

#: With how many first configs another one is compared at most.
KINDS = 16

_ABSENT = object()


@dataclass(frozen=True)
class Read:
    """What was read of a value.

    Parameters
    ----------
    path: of the value
    of, key: only what a function says of this key and the value; None where the value itself was read
    """

    path: Keys
    of: Callable[[str, Any], Any] | None = None
    key: str = ""

    def exactly(self, value: Any) -> Hashable:
        return exact(value if self.of is None else self.of(self.key, value))


class Watched(dict[Any, Any]):
    """A mapping that writes down which of some of its values are read, in every way in which a dict is read.

    Parameters
    ----------
    paths: key -> path, of those values
    reads: filled
    """

    __slots__ = ("paths", "reads")

    def __init__(self, values: Mapping[Any, Any], paths: Mapping[Any, Keys], reads: dict[Read, None]) -> None:
        super().__init__(values)
        self.paths, self.reads = paths, reads

    def _read(self, key: Any) -> None:
        if key in self.paths:
            self.reads[Read(self.paths[key])] = None

    def whole(self) -> dict[Any, Any]:
        """A plain copy; all of them are read."""
        for key in self.paths:
            self._read(key)
        return dict(dict.items(self))

    def said(self, says: Callable[[str, Any], Answer], *keys: Any) -> list[Answer]:
        """As the function of this name; only what `says` answers is read."""
        self.reads.update((Read(self.paths[key], says, key), None) for key in keys if key in self.paths)
        return [says(key, dict.__getitem__(self, key)) for key in keys]

    def __getitem__(self, key: Any) -> Any:
        self._read(key)
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self._read(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__()  # with this one of its own, dict(x) and {**x} ask for each value too

    def items(self) -> ItemsView[Any, Any]:  # type: ignore[override]
        return self.whole().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return self.whole().values()

    def copy(self) -> dict[Any, Any]:
        return self.whole()

    def __copy__(self) -> dict[Any, Any]:
        return self.whole()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        from copy import deepcopy

        return deepcopy(self.whole(), memo)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (self.whole(),)

    def __eq__(self, other: object) -> bool:
        return self.whole() == (other.whole() if isinstance(other, Watched) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __or__(self, other: Any) -> Any:
        return self.whole() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.whole()

    def __repr__(self) -> str:
        return repr(self.whole())

    def _fixed(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a frozen config is not changed")

    __setitem__ = __delitem__ = __ior__ = pop = popitem = setdefault = update = clear = _fixed


def where(values: Mapping[str, Any], holds: Callable[[str, Any], bool]) -> list[str]:
    """The keys of the values of which something holds.

    Parameters
    ----------
    holds: of a key and its value; a function or a method that is there for good, as answers are kept by it
    """
    return list(itertools.compress(values, said(values, holds, *values)))


def said(values: Mapping[str, Any], says: Callable[[str, Any], Answer], *keys: str) -> list[Answer]:
    """What a function, there for good, says of these keys and their values."""
    if isinstance(values, Watched):
        return values.said(says, *keys)
    return [says(key, values[key]) for key in keys]


def flat(
    config: Mapping[str, Any], left_out: Collection[str] = ()
) -> tuple[Mapping[str, Any], dict[str, Mapping[str, Any]]]:
    """As `dotted.flat`; of a config that is watched the leaves are too."""
    leaves, inner = dotted.flat(config, left_out, _unread)
    paths: dict[str, Keys] = {}
    reads = None
    for name, node in (("", config), *inner.items()):
        if isinstance(node, Watched):
            reads = node.reads
            paths |= {f"{name}.{key}" if name else key: path for key, path in node.paths.items()}
    return leaves if reads is None else Watched(leaves, {k: p for k, p in paths.items() if k in leaves}, reads), inner


def _unread(node: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return dict.items(node) if isinstance(node, Watched) else node.items()


def differences(first: Mapping[Any, Any], other: Mapping[Any, Any], path: Keys = ()) -> dict[Keys, Any] | None:
    """Path -> the other one's value, of all that is not the same; None where their keys are others, or in another
    order.

    Only mappings are looked into; in doubt a value is another one.
    """
    if list(first) != list(other):
        return None
    found: dict[Keys, Any] = {}
    for key in itertools.compress(other, map(operator.is_not, first.values(), other.values())):
        before, value = first[key], other[key]
        if type(value) is dict and type(before) is dict:
            inner = differences(before, value, (*path, key))
            if inner is None:
                return None
            found |= inner
        elif isinstance(value, Mapping) or isinstance(before, Mapping):
            return None
        elif exact(value) != exact(before):
            if any(type(part) is not str or "." in part for part in (*path, key)):
                return None  # its dotted key could be another one's
            found[(*path, key)] = value
    return found


def exact(value: Any) -> Hashable:
    """Equal for two plain values exactly when no code can tell them apart: 1 is not 1.0, nor True, nor "1"."""
    return value if type(value) is str else (type(value), repr(value))


class _Kept(Generic[Answer]):
    """The answers to one question, by the values that each was made of."""

    def __init__(self) -> None:
        self.by_reads: dict[tuple[Read, ...], dict[tuple[Hashable, ...], Answer]] = {}

    def find(self, values: Callable[[Read], Hashable]) -> tuple[Answer] | None:
        """The answer for a config of these values, in a tuple; None where none is known."""
        for reads, answers in self.by_reads.items():
            key = tuple(map(values, reads))
            if key in answers:
                return (answers[key],)
        return None


class _Kind:
    """Configs of the same keys.

    Parameters
    ----------
    first: one of them
    differing: path -> the first one's value, of all values in which any of them differs from it
    """

    def __init__(self, first: Mapping[Any, Any]) -> None:
        self.first = first
        self.size = 0
        self.differing: dict[Keys, Any] = {}
        self.kept: dict[Hashable, _Kept[Any]] = {}

    def member(self, config: Mapping[Any, Any], own: Mapping[Keys, Any]) -> _Member:
        """One more: a config that has these values in place of the first one's."""
        self.size += 1
        self.differing.update({path: at(self.first, path) for path in own if path not in self.differing})
        if self.size == 2:  # the first was composed, the others made of a copy of it: what they share is quickly seen
            self.first = with_values(config, {path: at(self.first, path) for path in own})
        return _Member(self, own)

    def watched(self, own: Mapping[Keys, Any], reads: dict[Read, None]) -> Mapping[Any, Any]:
        """One of them, with what it has in place of the first one's values."""
        whole = with_values(self.first, {path: own.get(path, value) for path, value in self.differing.items()})
        parents: dict[Keys, dict[Any, Keys]] = {}
        for path in self.differing:
            parents.setdefault(path[:-1], {})[path[-1]] = path
        for parent in sorted(parents, key=len, reverse=True):  # the inner ones first
            if not parent:
                return Watched(whole, parents[parent], reads)
            above = at(whole, parent[:-1])
            above[parent[-1]] = Watched(above[parent[-1]], parents[parent], reads)
        return whole


class _Member:
    """One config, by its kind and what it has in place of the first one's values."""

    def __init__(self, kind: _Kind, own: Mapping[Keys, Any]) -> None:
        self.kind, self.own = kind, own
        self.known: dict[Read, Hashable] = {}

    def exact(self, read: Read) -> Hashable:
        """What is read there, as answers are compared by it."""
        if read not in self.known:
            own = self.own.get(read.path, _ABSENT)
            self.known[read] = read.exactly(self.kind.differing[read.path] if own is _ABSENT else own)
        return self.known[read]


class Alike(Generic[Seen]):
    """Configs that are asked one after another.

    Parameters
    ----------
    see: what the questions are asked of, made of a config
    again: gives one that knows nothing of an earlier question
    """

    def __init__(
        self,
        configs: Sequence[Mapping[Any, Any]],
        see: Callable[[Mapping[Any, Any]], Seen],
        again: Callable[[Seen], Seen],
    ) -> None:
        self._see, self._again = see, again
        self._members = configs.members if isinstance(configs, Configs) else _members(configs)
        self._now: tuple[_Member, Seen, tuple[Read, ...], dict[Read, None]] | None = None

    def kind(self, index: int) -> Hashable:
        """Equal for configs of one kind."""
        return self._members[index].kind

    def ask(self, index: int, name: Hashable, question: Callable[[Seen], Answer]) -> Answer:
        """What a question says of a config.

        Parameters
        ----------
        name: of the question
        """
        member = self._members[index]
        kept: _Kept[Answer] = member.kind.kept.setdefault(name, _Kept())
        known = kept.find(member.exact)
        if known is not None:
            return known[0]
        seen, always, reads = self._seen(member)
        reads.clear()
        reads.update(dict.fromkeys(always))
        answer = question(self._again(seen) if member.kind.differing else seen)
        kept.by_reads.setdefault(tuple(reads), {})[tuple(map(member.exact, reads))] = answer
        return answer

    def same(self, index: int, name: Hashable) -> bool:
        """Whether the answer that a config got is that of its whole kind."""
        return () in self._members[index].kind.kept[name].by_reads

    def _seen(self, member: _Member) -> tuple[Seen, tuple[Read, ...], dict[Read, None]]:
        """What is asked, what was read to make it, and where what is read is written down."""
        if self._now is None or self._now[0] is not member:
            reads: dict[Read, None] = {}
            seen = self._see(member.kind.watched(member.own, reads))
            self._now = member, seen, tuple(reads), reads
        return self._now[1:]


def _members(configs: Sequence[Mapping[Any, Any]]) -> list[_Member]:
    """The configs by kinds. All that will be asked are among them: what they differ in is what is watched."""
    kinds: list[_Kind] = []  # the one that was met last comes first
    members = []
    for config in configs:
        own: dict[Keys, Any] | None = None
        for place, kind in enumerate(kinds[:KINDS]):
            own = differences(kind.first, config)
            if own is not None:
                kinds.insert(0, kinds.pop(place))
                break
        else:
            kinds.insert(0, _Kind(config))
        members.append(kinds[0].member(config, own or {}))
    return members


class Configs(list[Mapping[str, Any]]):
    """Configs of which several questions are asked; neither they nor the list are changed."""

    @cached_property
    def members(self) -> list[_Member]:
        return _members(self)


def _itself(config: Any) -> Any:
    return config


def each(
    configs: Sequence[Mapping[Any, Any]],
    question: Callable[[Any], Answer],
    see: Callable[[Mapping[Any, Any]], Any] = _itself,
    again: Callable[[Any], Any] = _itself,
) -> list[Answer]:
    """What a question says of each config; parameters as for `Alike`."""
    alike, name = Alike(configs, see, again), object()
    return [alike.ask(index, name, question) for index in range(len(configs))]


class Texts:
    """A text of each config, in parts: those of the first of its kind, with its own values' in their places.

    Parameters
    ----------
    parts: the path and the text of each value of a config, in the order of the text; what stands between them too
    part: the same of one value
    """

    def __init__(
        self,
        configs: Configs,
        parts: Callable[[Mapping[str, Any]], Iterable[tuple[Keys, str]]],
        part: Callable[[Keys, Any], str],
    ) -> None:
        self._configs, self._parts, self._part = configs, parts, part
        self._templates: dict[_Kind, tuple[list[str], dict[int, Keys]] | None] = {}

    def of(self, index: int) -> str:
        member = self._configs.members[index]
        if member.kind not in self._templates:
            self._templates[member.kind] = self._template(member.kind)
        known = self._templates[member.kind]
        if known is None:
            return "".join(text for _, text in self._parts(self._configs[index]))
        template, places = known
        texts = list(template)
        for place, path in places.items():
            if path in member.own:
                texts[place] = self._part(path, member.own[path])
        return "".join(texts)

    def _template(self, kind: _Kind) -> tuple[list[str], dict[int, Keys]] | None:
        """The first one's text, what never differs in one piece; and where the values stand that do. None where two
        parts are of one path."""
        texts: list[str] = []
        places: dict[int, Keys] = {}
        for path, text in self._parts(kind.first):
            if path in kind.differing:
                if path in places.values():
                    return None
                places[len(texts)] = path
                texts.append(text)
            elif texts and len(texts) - 1 not in places:
                texts[-1] += text
            else:
                texts.append(text)
        return texts, places
