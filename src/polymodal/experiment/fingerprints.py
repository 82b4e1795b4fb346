"""What decides a run's figures, as a short name of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from polymodal.config import Config, load_config
from polymodal.datasets import canonical, open_table, parse, with_preset
from polymodal.errors import InputError

__all__ = ["configuration", "fingerprint"]

WITHOUT_EFFECT = {
    "data": ("cache_bytes", "decoded", "workers", "feature_cache", "on_error"),
    "train": ("device", "checkpoint_every", "trackers"),
}
"""Settings that change how long a run takes or what it writes beside, never its figures."""


def configuration(values: Mapping[str, Any]) -> Config:
    """The settings of a run, with those of its table's preset below them.

    Raises:
        InputError: no label or table, an unknown key, or a value out of range.
    """
    config = load_config(with_preset(values))
    if config.table is None:
        raise InputError("the settings of a run name no table")
    return config


def fingerprint(values: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal characters that change with any setting that can change figures, and with the table's rows.

    Files that the rows name are not read: who changes them in place must name another folder for the runs.
    """
    config = configuration(values)
    settings = config.model_dump(mode="json")
    for group, keys in WITHOUT_EFFECT.items():
        for key in keys:
            del settings[group][key]
    for key in ("table", "valid"):
        if settings[key] is not None:
            path = Path(settings[key])
            settings[key] = _digest(canonical(settings[key]), path.stat().st_mtime_ns if path.is_file() else 0)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=64)
def _digest(source: str, changed: int) -> str:
    """Of a table's cells, paths relative to its folder, so that the same files elsewhere have the same one."""
    named = parse(source)
    folder = str((Path(source).parent if named is None else named.root).resolve())
    text = open_table(source).frame.to_csv(index=False).replace(folder, "")
    return hashlib.sha256(text.encode()).hexdigest()[:16]
