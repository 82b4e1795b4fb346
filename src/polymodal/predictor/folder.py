"""What a run's folder holds beside the weights and the predictions: settings, data, inputs, history and times."""

from __future__ import annotations

import json
import platform
import resource
import sys
import zlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import yaml

from polymodal.config import Config, load_config
from polymodal.data.inputs import Input
from polymodal.data.parts import Parts
from polymodal.data.samples import Samples
from polymodal.data.schema import Schema
from polymodal.distributed import world_size
from polymodal.errors import InputError
from polymodal.run import RunFolder

__all__ = ["describe_data", "keep_files", "read_settings", "same_data", "write_end", "write_settings", "write_start"]


def write_settings(run: RunFolder, config: Config) -> None:
    """Write config.yaml, with the versions of what it ran on."""
    packages = ("polymodal", "torch", "timm", "accelerate", "numpy", "av", "soundfile")
    versions = {name: version(name) for name in packages} | {
        "python": platform.python_version(),
        "system": sys.platform,
    }
    values = {**config.model_dump(mode="json"), "versions": versions}
    run.write_text("config.yaml", yaml.safe_dump(values, sort_keys=False))


def read_settings(run: RunFolder) -> Config:
    """The settings in config.yaml."""
    values = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
    values.pop("versions", None)
    return load_config(values)


def describe_data(schema: Schema, inputs: Mapping[str, Input], parts: Parts | None = None) -> dict[str, Any]:
    """What data.json holds; with `parts` also sums by which a changed table is told."""
    described: dict[str, Any] = {"schema": schema.to_dict(), "inputs": {m: one.state() for m, one in inputs.items()}}
    if parts is not None:
        described["samples"] = {part: [len(one), _checksum(one)] for part, one in parts.samples.items()}
    return described


def same_data(run: RunFolder, data: Mapping[str, Any]) -> bool:
    """Whether a run was started on this data."""
    return bool(json.loads(json.dumps(data)) == run.read_json("data.json"))


def keep_files(run: RunFolder, inputs: Mapping[str, Input]) -> None:
    """What inputs need besides their settings, such as a tokenizer, so that the run can be moved."""
    for m, one in inputs.items():
        one.keep(run.path / "inputs" / m)


def write_start(run: RunFolder, config: Config, parts: Parts, *, resume: bool) -> None:
    """Write settings and data of a run that begins or goes on.

    Raises:
        InputError: it is to go on and its table is another now.
    """
    data = describe_data(parts.schema, parts.inputs, parts)
    if resume and run.has("data.json") and not same_data(run, data):
        raise InputError(
            f"the table {config.table} or its files have changed since the run in {run.path} was started, so that "
            "it cannot be gone on with; train anew with another --out"
        )
    write_settings(run, config)
    run.write_json("data.json", data)
    keep_files(run, parts.inputs)


def write_end(
    run: RunFolder, stages: Iterable[str], seconds: Mapping[str, float], trainable: Mapping[str, int]
) -> None:
    """Write the history of all stages, and timing.json."""
    run.write_history([{"stage": one} | row for one in stages for row in run.stage(one).read_json("done.json")["rows"]])
    run.write_json(
        "timing.json",
        {
            "seconds": dict(seconds),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "trainable": dict(trainable),
            "processes": world_size(),
        },
    )


def _checksum(samples: Samples) -> int:
    """Of the names and targets, to tell whether a table is still the same."""
    return zlib.crc32(samples.target.numpy().tobytes(), zlib.crc32("\n".join(samples.ids).encode()))
