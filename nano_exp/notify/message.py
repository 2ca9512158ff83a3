"""A message, and the JSON that each kind of webhook takes. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

About = Literal["done", "failed", "stalled", "budget"]


@dataclass(frozen=True)
class Message:
    """What is told.

    Parameters
    ----------
    title: one line
    lines: what else, a line each
    name, launch: of the runs
    """

    about: About
    name: str
    launch: str
    title: str
    lines: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "\n".join((self.title, *self.lines))


def _json(message: Message) -> dict[str, Any]:
    return {**asdict(message), "text": message.text}


def _slack(message: Message) -> dict[str, Any]:
    """Slack's incoming webhooks, and Mattermost's: & < > stand for themselves only when escaped."""
    escaped = message.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": escaped}


def _discord(message: Message) -> dict[str, Any]:
    """Discord's webhooks: at most 2,000 letters, and nobody is pinged by a run's name."""
    return {"content": message.text[:2000], "allowed_mentions": {"parse": []}}


def _teams(message: Message) -> dict[str, Any]:
    """An adaptive card, as the workflows of Microsoft Teams take it."""
    blocks = [{"type": "TextBlock", "text": line, "wrap": True} for line in (message.title, *message.lines)]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "attachments": [attachment]}


#: Form of a webhook -> what is posted to it.
SHAPES: dict[str, Callable[[Message], dict[str, Any]]] = {
    "json": _json,
    "slack": _slack,
    "discord": _discord,
    "teams": _teams,
}
