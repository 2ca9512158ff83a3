"""What a run starts from, where its source had not ended at launch: which checkpoint that is, found once.

The first attempt looks, makes the weights that the engine reads where they are lacking, and writes an `origin` event.
Every later attempt starts from that one: it is the reference policy too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nano_exp import engines, files
from nano_exp.after import export, making
from nano_exp.engines import origin as origins
from nano_exp.engines.origin import INIT, Origin
from nano_exp.errors import UserError
from nano_exp.store import runs, state
from nano_exp.text import Say


def settled(run: runs.Run, config: dict[str, Any], say: Say) -> dict[str, Any]:
    """The config with the checkpoint that its open `init_from` means; as it is where it has none.

    Raises
    ------
    UserError: the source is not done, has no such checkpoint, or it does not fit
    """
    origin = origins.of(config, INIT)
    if origin is None or not origin.is_open:
        return config
    engine = engines.get(config["engine"]["name"])
    found = origins.started({INIT: config[INIT]}, run) or origin
    if found.is_open:
        chosen = _chosen(origin)
        found = Origin(INIT, origin.run, chosen.step, chosen.path)
        _require_weights(engine, config, found, chosen, say)
        engine.fits(config, found, chosen.config)
        runs.record_event(run.dir, "origin", key=INIT, run=origin.run, step=found.step, path=str(found.path))
        say(f"starts from {found.typed} ({INIT}={origin.typed})")
    elif not engine.readable(config, found):  # what the first attempt made is gone
        _require_weights(engine, config, found, _chosen(replace(origin, step=found.step)), say)
    return {**config, INIT: found.frozen}


def _require_weights(
    engine: engines.Engine, config: dict[str, Any], found: Origin, chosen: making.Chosen, say: Say
) -> None:
    """Export the checkpoint where the engine does not read it as it is. Who exports it already is waited for."""
    if not engine.readable(config, found):
        say(f"{found.typed} has no weights that this engine reads: exporting them")
        export.export(chosen, say)


def _chosen(origin: Origin) -> making.Chosen:
    """The checkpoint of a source that is done. Raises UserError."""
    source = runs.load(origin.path)
    if "digest" not in source.record:
        raise UserError(
            f"{INIT}={origin.typed}: {origin.path}: {'; '.join(source.damaged)}",
            "the run starts from a checkpoint of that one",
            f"bring that folder back, and nano-exp retry this run; or another {INIT}=",
        )
    if not state.is_done(runs.attempts(source.dir)):
        raise UserError(
            f"{INIT}={origin.typed}: that run is not done",
            "which checkpoint it starts from is known at the end of that one",
            f"nano-exp retry {origin.run}, and then this run",
        )
    try:
        return making.choose(source, str(origin.step), f"{INIT}={origin.run}@")
    except (files.Damaged, OSError) as error:
        raise UserError(
            f"{INIT}={origin.typed}: {error}", "its checkpoints cannot be looked at", "bring them back"
        ) from error
