"""site.notify: its entries, and the variables that hold webhooks' addresses."""

from __future__ import annotations

from collections.abc import Iterator

from nano_exp.errors import UserError
from nano_exp.notify.receivers import receivers
from nano_exp.preflight.registry import ANY_ENGINE, Mistake, rule
from nano_exp.preflight.view import View


@rule(engine=ANY_ENGINE, place=True)
def notify_entries(c: View) -> Iterator[Mistake]:
    """Each entry of site.notify has a command, a webhook's variable or a mailbox."""
    try:
        receivers(c.site.get("notify"))
    except UserError as error:
        yield Mistake((), error.why, error.fix, subject=error.found)


@rule(engine=ANY_ENGINE, place=True, severity="warning")
def notify_variables(c: View) -> Iterator[Mistake]:
    """The variables that site.notify names are set, in the environment or in env.yaml."""
    try:
        named = {receiver.where for receiver in receivers(c.site.get("notify")) if receiver.way == "webhook"}
    except UserError:
        return  # notify_entries says it
    for name in sorted(named):
        if name not in c.facts.env_names and not c.facts.environ.get(name):
            yield Mistake(
                ("site.notify",), f"{name} is not set here, so nobody is told there", f"{name}: https://... in env.yaml"
            )
