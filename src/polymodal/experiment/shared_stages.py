"""Uni-modal stages that runs have in common: the first run trains them, and the others take them over as finished."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from polymodal.errors import InputError
from polymodal.experiment.fingerprints import configuration, fingerprint
from polymodal.run import RunFolder

__all__ = ["keep", "lend", "stages_key"]

BEYOND = ("recipe", "balancer", "fusion")
"""What a uni-modal stage does not depend on."""
BEGINS = "unimodal_"


def stages_key(values: Mapping[str, Any]) -> str | None:
    """What decides the uni-modal stages of a run: its settings without what comes after them.

    None where the run's encoders begin with other weights, or its recipe is somebody's own, whose stages may be anything.
    """
    config = configuration(values)
    if _begins_elsewhere({"name": config.recipe.name, **config.recipe.arguments}):
        return None
    modalities = [spec.partition("=")[0] for spec in config.data.modalities or []]
    own = {key: value for key, value in values.items() if key not in BEYOND}
    own["stages"] = {
        pattern: settings
        for pattern, settings in values.get("stages", {}).items()
        if not modalities or any(fnmatchcase(f"{BEGINS}{m}", pattern) for m in modalities)
    }
    return fingerprint({**own, "recipe": "unimodal"})


def _begins_elsewhere(recipe: str | Mapping[str, Any]) -> bool:
    """Whether a recipe, or the one that it comes `after`, is somebody's own or is given weights."""
    part = {"name": recipe} if isinstance(recipe, str) else recipe
    if "." in part["name"] or {"start_from", "checkpoints"} & set(part):
        return True
    return bool(part.get("after")) and _begins_elsewhere(part["after"])


def lend(store: Path, run: RunFolder) -> None:
    """Give a run that has not begun the finished uni-modal stages that are kept in `store`."""
    _copied(store, run.path / "stages")


def keep(store: Path, run: RunFolder) -> None:
    """Keep the finished uni-modal stages of a run in `store`; what is there already stays."""
    _copied(run.path / "stages", store)


def _copied(source: Path, target: Path) -> None:
    """Whole stages alone, and each at once: another process may do the same."""
    for stage in sorted(source.glob(f"{BEGINS}*")):
        if not (stage / "done.json").is_file() or (target / stage.name).exists():
            continue
        half = target / f".{stage.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        try:
            shutil.copytree(stage, half, copy_function=_linked)
            half.rename(target / stage.name)
        except OSError as error:
            if not (target / stage.name).exists():  # it is there where another process was first
                raise InputError(f"cannot write {target / stage.name}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(half, ignore_errors=True)


def _linked(source: str, target: str) -> None:
    """Files of a stage are replaced and never changed, so that a second name costs nothing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
