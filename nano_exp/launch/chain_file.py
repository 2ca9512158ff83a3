"""A chain's file, conf/chain/NAME.yaml: its links in their order, and what is typed for them.

links:
  sft:                          # a link's name
    algorithm: sft              # supervised steps; left out: GRPO
    overrides: [grpo.max_num_steps=30]
  grpo:
    from: sft@best              # an earlier link and its step; left out: the last step of the link before
    overrides: [optimizer.lr=1e-6]
    after_training: [eval]
overrides: [model=nano_tiny]    # of all links
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_exp import files, project
from nano_exp.compose.conf_tree import CONF_DIR
from nano_exp.engines import checkpoints
from nano_exp.errors import UserError, choice, nearest
from nano_exp.overrides import Override

FOLDER = CONF_DIR / "chain"
SFT, GRPO = "sft", "grpo"
_KEYS, _LINK_KEYS = ("links", "overrides"), ("algorithm", "from", "overrides", "after_training")


@dataclass(frozen=True)
class Link:
    """One run of a chain.

    Parameters
    ----------
    algorithm: grpo or sft
    source: of which earlier link it starts; "" for the first
    step: best, last or a number of that link's
    words: overrides, those of all links first; of several about one key the last one alone
    """

    name: str
    algorithm: str
    source: str
    step: str
    words: tuple[str, ...]


def names() -> list[str]:
    """The chains that there are, sorted."""
    return [path.stem for path in project.glob(FOLDER, "*.yaml")]


def read(name: str, typed: Sequence[str] = ()) -> list[Link]:
    """The links of a chain with what is typed for it: `KEY=VALUE` for all links, `LINK:KEY=VALUE` for one.

    Raises
    ------
    UserError: there is no such chain, its file cannot be used, or a word is for a link that it has not
    """
    path = project.at(FOLDER / f"{name}.yaml")
    if name not in names():
        raise UserError(
            f"chain {name}",
            f"there is no {path}",
            choice("nano-exp chain ", nearest(name, names()), names()) if names() else f"write {path}",
        )
    whole = _mapping(path)
    links = whole.get("links")
    if not isinstance(links, Mapping) or not links:
        raise _wrong(path, "it has no `links:`", "a chain is a mapping of links", "links: {sft: {...}, grpo: {...}}")
    for_all = _listed(path, "overrides", whole.get("overrides"))
    plain = [word for word in typed if _link_of(word) is None]
    own = [(link, rest) for word in typed if (link := _link_of(word)) for rest in [word.partition(":")[2]]]
    for link, rest in own:
        if link not in links:
            near = choice("", [f"{one}:{rest}" for one in nearest(link, links)], [f"{one}:{rest}" for one in links])
            raise UserError(f"{link}:{rest}", f"the chain {name} has the links {', '.join(map(str, links))}", near)
    made: list[Link] = []
    for one, content in links.items():
        words = [word for link, word in own if link == one and not word.startswith("from=")]
        if sources := [word.partition("=")[2] for link, word in own if link == one and word.startswith("from=")]:
            content = {**content, "from": sources[-1]} if isinstance(content, Mapping) else {"from": sources[-1]}
        made.append(_link(path, str(one), content, for_all, [*plain, *words], made))
    return made


def _link(
    path: Path, name: str, content: Any, for_all: Sequence[str], typed: Sequence[str], before: Sequence[Link]
) -> Link:
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise _wrong(path, f"a link is called {name!r}", "it is typed before a colon", "letters, digits and _")
    content = {} if content is None else content
    if not isinstance(content, Mapping):
        raise _wrong(path, f"link {name} is {content!r}", "a link is a mapping", "overrides: [KEY=VALUE]")
    _require_known(path, content, _LINK_KEYS, f"link {name}: ")
    algorithm = str(content.get("algorithm") or GRPO)
    if algorithm not in (SFT, GRPO):
        raise _wrong(path, f"link {name}: algorithm: {algorithm}", "a link trains with one of two", "grpo or sft")
    after = _listed(path, "after_training", content.get("after_training"))
    words = [*for_all, *_listed(path, "overrides", content.get("overrides"))]
    words += [f"after_training=[{','.join(after)}]"] if after else []
    words = last_of_each([*words, *typed])
    source, step = _source(path, name, content.get("from"), before)
    if any(Override.parse(word).key in ("init_from", "fork_from") for word in words):
        source = ""
    return Link(name, algorithm, source, step, tuple(words))


def _source(path: Path, name: str, given: Any, before: Sequence[Link]) -> tuple[str, str]:
    """The earlier link and the step that a link starts from."""
    if given is None:
        return (before[-1].name if before else ""), checkpoints.LAST
    link, _, step = str(given).partition("@")
    earlier = [one.name for one in before]
    if link not in earlier:
        fix = f"from: {earlier[-1]}" if earlier else "leave it out"
        raise _wrong(path, f"link {name}: from: {given}", "it starts from a link that stands before it", fix)
    return link, step or checkpoints.LAST


def last_of_each(words: Sequence[str]) -> list[str]:
    """Words without those whose key a later one has too: a group cannot be chosen twice."""
    last = {Override.parse(word).key: place for place, word in enumerate(words)}
    return [word for place, word in enumerate(words) if last[Override.parse(word).key] == place]


def _link_of(word: str) -> str | None:
    """The link that a typed word is for; None where it is for all."""
    match = re.match(r"([A-Za-z]\w*):[^=]+", word)
    return match[1] if match else None


def _listed(path: Path, key: str, value: Any) -> list[str]:
    words = value if isinstance(value, list) else [] if value is None else [value]
    if any(not isinstance(word, str) for word in words):
        raise _wrong(path, f"{key}: {value!r}", "it is a list of words", f"{key}: [WORD, WORD]")
    for word in words if key == "overrides" else ():
        if not Override.parse(word).has_value and not word.startswith("~"):
            raise _wrong(path, f"{key}: {word!r}", "an override has a key and a value", f"{key}: [KEY=VALUE]")
    return list(words)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        whole = files.read_yaml(path)
    except (files.Damaged, OSError) as error:
        raise UserError(f"{path}: {error}", "the chain's links stand in it", "mend the file") from error
    if not isinstance(whole, dict):
        raise _wrong(path, f"it holds {whole!r}", "a chain is a mapping", "links: {sft: {...}, grpo: {...}}")
    _require_known(path, whole, _KEYS, "")
    return whole


def _require_known(path: Path, content: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise _wrong(
                path,
                f"{where}{key}:",
                f"there is {', '.join(known)}",
                choice("", nearest(str(key), known), list(known)),
            )


def _wrong(path: Path, what: str, why: str, fix: str) -> UserError:
    return UserError(f"{path}: {what}", why, fix)
