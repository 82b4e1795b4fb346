"""One run of a table or a sweep: trained once, known by a fingerprint of everything that decides its figures."""

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
from polymodal.run import RunFolder, load_weights, notes_in_files_only

__all__ = ["configuration", "fingerprint", "measure"]

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


def measure(values: Mapping[str, Any], out: Path, *, probe: bool = False, show: bool | None = None) -> dict[str, Any]:
    """Train a run, go on with one that was stopped, or read one that is finished.

    Args:
        values: tree of settings with label, table and seed.
        out: the run's folder.
        probe: fit a linear probe to the trained encoder of each modality too, and score it on the test part.
        show: force progress bars on or off.

    Returns:
        "valid" and "test" (metrics of each part that there is), "unimodal" (of each part, by modality), "parameters" of
        the model, "trainable" in the last stage, "seconds" of training, "peak_mib" of the process, and with `probe`
        "probe" (test accuracy by modality).

    Raises:
        InputError: whatever `Predictor.fit` raises.
    """
    from polymodal.predictor import Predictor

    run = RunFolder(out, resume=True)
    if not run.has("metrics.json"):
        if not run.has("config.yaml"):
            run.sweep()  # of one that was killed while it wrote its first file
        config = configuration(values)
        predictor = Predictor(config=config, out=out, show=show)
        with notes_in_files_only():
            predictor.fit(str(config.table), config.valid, resume=run.has("config.yaml"))
    metrics, timing = run.read_json("metrics.json"), run.read_json("timing.json")
    seconds = timing["seconds"]
    found = {
        **{part: metrics[part] for part in ("valid", "test") if part in metrics},
        "unimodal": {part: one for part, one in metrics["unimodal"].items() if part != "from"},
        "parameters": _parameters(run),
        "trainable": next(reversed(timing["trainable"].values()), 0),
        "seconds": seconds["all"] - seconds["evaluation"],
        "peak_mib": timing["peak_memory_mib"],
    }
    if probe:
        if not run.has("probe.json"):
            run.write_json("probe.json", _probe(run))
        found["probe"] = run.read_json("probe.json")
    return found


def _parameters(run: RunFolder) -> int:
    return sum(one.numel() for one in load_weights(run.path / "model.safetensors").values())


def _probe(run: RunFolder) -> dict[str, float]:
    """Test accuracy of linear probes of the encoders of a finished run."""
    from polymodal.analysis.linear_probe import probe_encoders
    from polymodal.predictor import Predictor
    from polymodal.recipes.base import Only

    predictor = Predictor.load(run.path, show=False)
    model = predictor.model_
    assert model is not None
    train = predictor.training_setup(run).train
    return probe_encoders(model, Only(train, model.modalities), predictor.batches(split="test"))
