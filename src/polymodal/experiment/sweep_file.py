"""Sweep files: methods, the space that each is searched over, and the runs that are equally many for all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from polymodal import names
from polymodal.config import _Strict, _validated, laid, load_config, read_yaml
from polymodal.errors import InputError

__all__ = ["Method", "Range", "SweepFile", "Trial", "read_sweep"]

Trial = dict[str, Any]
"""What was drawn for one trial: values by dotted setting."""
DIGITS = 4
"""Significant digits of a drawn number: a rate is not known better, and lists stay readable."""


class Range(_Strict):
    """Where the values of one setting are drawn from: exactly one of the four."""

    log: tuple[float, float] | None = Field(None, description="uniform in the logarithm")
    uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = Field(None, description="uniform, both ends among them")
    choice: list[Any] | None = Field(None, min_length=1)

    @field_validator("choice")
    @classmethod
    def _numbers(cls, values: list[Any] | None) -> list[Any] | None:
        return None if values is None else [_number(one) for one in values]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError(f"expected one of log, uniform, integer and choice, found {', '.join(given) or 'none'}")
        kind, ends = next(iter(given.items()))
        if kind != "choice" and (
            not all(map(math.isfinite, ends)) or ends[0] > ends[1] or (kind == "log" and ends[0] <= 0)
        ):
            raise ValueError(f"{kind} {list(ends)}: expected [a, b] with {'0 < ' if kind == 'log' else ''}a <= b")
        return self

    def draw(self, random: Random) -> Any:
        """One value, by one number of the generator."""
        share = random.random()
        if self.choice is not None:
            return self.choice[int(share * len(self.choice))]
        if self.integer is not None:
            low, high = self.integer
            return low + int(share * (high - low + 1))
        if self.log is not None:
            a, b = self.log
            value = a * (b / a) ** share
        else:
            assert self.uniform is not None
            a, b = self.uniform
            value = a + (b - a) * share
        return min(max(float(f"{value:.{DIGITS}g}"), a), b)

    def holds(self, value: Any) -> bool:
        """Whether a value may have been drawn."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.integer or self.log or self.uniform or (0, 0)
        if isinstance(value, bool) or not isinstance(value, int if self.integer else int | float):
            return False
        return bool(low <= value <= high)


class Method(_Strict):
    """One of the methods that are compared."""

    settings: dict[str, Any] = Field({}, description="laid over the defaults; keys may be dotted")
    space: dict[str, Range] = Field({}, description="searched for this method alone, by dotted setting")
    combines: list[str] = Field([], description="methods of the file that this one is made of")
    note: str = ""


class SweepFile(_Strict):
    """A whole file."""

    title: str
    note: str = ""
    table: str | None = Field(None, description="path of the table, below --data ROOT")
    source: str | None = Field(None, description="DATASET/PRESET instead, read below --data ROOT")
    defaults: dict[str, Any] = Field({}, description="settings of every run; keys may be dotted")
    trials: int = Field(ge=1, description="of each method")
    seed: int = Field(0, ge=0, description="of the drawing")
    select_seeds: list[int] = Field([0], min_length=1, description="of the runs that a trial is chosen by")
    folds: int | None = Field(
        None,
        ge=2,
        description="of the training and validation rows; a trial is then chosen by what each of them holds out",
    )
    seeds: list[int] = Field(min_length=1, description="of the chosen trial's runs, whose test figures are read")
    metric: str = Field(description="what is chosen by and compared")
    space: dict[str, Range] = Field({}, description="searched for every method, by dotted setting")
    methods: dict[str, Method] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.table is None) == (self.source is None):
            raise ValueError("name either a table or a source")
        for name, one in (("select_seeds", self.select_seeds), ("seeds", self.seeds)):
            if len(set(one)) != len(one) or min(one) < 0:
                raise ValueError(f"{name} {one}: expected different numbers from 0")
        for name, method in self.methods.items():
            for part in method.combines:
                if part == name or part not in self.methods:
                    raise ValueError(f"methods.{name}.combines {part}: expected other methods of the file")
        for place, settings in self._settings():
            for key in ("table", "seed"):
                if key in settings:
                    raise ValueError(f"{place}.{key}: the file's own table, source and seeds say it")
            if self.folds is not None and "fold" in _nested(settings).get("data", {}):
                raise ValueError(f"{place}.data.fold: the file's own folds say it")
        return self

    def _settings(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            ("defaults", self.defaults),
            ("space", self.space),
            *((f"methods.{name}.settings", one.settings) for name, one in self.methods.items()),
            *((f"methods.{name}.space", one.space) for name, one in self.methods.items()),
        ]

    @property
    def judged(self) -> str:
        """The part of a run of the search by which its trial is chosen."""
        return "valid" if self.folds is None else "test"

    def searched(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Settings of all runs by which a trial is chosen; with folds none of them reads a test row."""
        seeded = [{**values, "seed": seed} for seed in self.select_seeds]
        if self.folds is None:
            return seeded
        return [laid(one, {"data": {"fold": [k, self.folds]}}) for one in seeded for k in range(1, self.folds + 1)]

    def space_of(self, method: str) -> dict[str, Range]:
        """Everything that is searched for a method; its own range of a setting stands before the shared one."""
        return self.space | self.methods[method].space

    def settings(self, method: str, trial: Trial) -> dict[str, Any]:
        """The tree of settings of a trial's runs, without table and seed."""
        return laid(laid(_nested(self.defaults), _nested(self.methods[method].settings)), _nested(trial))

    def check(self, method: str, trial: Trial) -> None:
        """Tell wrong settings before anything is run.

        Raises:
            InputError: an unknown setting or method, or a value out of range.
        """
        try:
            config = load_config({"label": "label", "table": "table"} | self.settings(method, trial))
            recipe, balancer = (
                names.resolve("recipes", config.recipe.name),
                names.resolve("balancers", config.balancer.name),
            )
            names.bind(recipe, config.recipe.arguments, {"setup": None}, "recipe")
            names.bind(balancer, config.balancer.arguments, {}, "balancer")
            names.bind(names.resolve("fusion", config.fusion.name), config.fusion.arguments, {}, "fusion")
        except InputError as error:
            raise InputError(f"method {method!r}: {error}") from error

    def where(self, data: Path | None) -> str:
        """The table, as `polymodal fit` would be given it.

        Raises:
            InputError: there is no such table, or the folder of the data set is not named.
        """
        if self.source is not None:
            if data is None:
                raise InputError(f"source {self.source}: name the folder above that of the data set with --data ROOT")
            return f"{self.source}:{data / self.source.partition('/')[0]}"
        path = (data or Path()) / str(self.table)
        if not path.is_file():
            raise InputError(f"table {path}: no such file; name the folder that it lies below with --data ROOT")
        return str(path)


def read_sweep(path: Path) -> SweepFile:
    """Read and check a file.

    Raises:
        InputError: no such file, no YAML, an unknown key, or a value out of range.
    """
    try:
        return _validated(SweepFile, read_yaml(path))
    except InputError as error:
        raise InputError(f"sweep {path}: {error}") from None


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings from one whose keys may be dotted; the longer a key, the later it is laid over the others."""
    tree: dict[str, Any] = {}
    for key in sorted(settings, key=lambda one: one.count(".")):
        value = settings[key]
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = laid(tree, value)
    return tree


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
