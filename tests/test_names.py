"""Names of methods and constructor calls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from polymodal import balancers, encoders, fusion, recipes
from polymodal.errors import InputError
from polymodal.names import bind, build, dotted, entries, nearest, resolve, typed_name


@pytest.mark.parametrize("typed", ["multi_loss", "MultiLoss", "multi-loss", "MULTILOSS"])
def test_any_case_resolves(typed: str) -> None:
    assert resolve("balancers", typed) is balancers.MultiLoss


def test_every_method_resolves_by_its_typed_name() -> None:
    for package in (balancers, fusion, encoders, recipes):
        short = package.__name__.split(".")[1]
        for typed, value in entries(short).items():
            assert resolve(short, typed) is value
            assert typed == typed_name(value.__name__) or value is balancers.Joint


def test_adapters_have_the_names_of_the_field() -> None:
    typed = {
        "LoRA": "lora",
        "P_tuning": "ptuning",
        "PTuningV2": "ptuning_v2",
        "MaPLe": "maple",
        "uni-adapter": "uniadapter",
    }
    for name, known in typed.items():
        assert resolve("adapters", name) is entries("adapters")[known]
    with pytest.raises(InputError, match=r"no recipe but an adapter: --recipe adapter recipe\.method=pmf"):
        resolve("recipes", "pmf")


def test_bases_and_helpers_are_no_methods() -> None:
    assert {"balancer", "fusion", "encoder", "linear_heads"}.isdisjoint(
        {*entries("balancers"), *entries("fusion"), *entries("encoders")}
    )
    assert entries("balancers")["joint"] is balancers.Balancer


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match=r"fusion 'conact' is unknown; did you mean 'concat'\?.*there are"):
        resolve("fusion", "conact")
    assert nearest("xyzzy", ["concat"]) == ""


@pytest.mark.parametrize(("package", "name", "home"), [("balancers", "umt", "recipe"), ("recipes", "MLB", "balancer")])
def test_a_method_of_another_kind_is_told(package: str, name: str, home: str) -> None:
    with pytest.raises(InputError, match=f"but a {home}: --{home} {name}"):
        resolve(package, name)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "own_method.py").write_text("class Own:\n    pass\n")
    (tmp_path / "broken_method.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_method", None)


@pytest.mark.usefixtures("outside")
def test_dotted_paths() -> None:
    found = resolve("balancers", "own_method.Own")
    assert dotted(found) == "own_method.Own"
    with pytest.raises(InputError, match=r"has no 'Onw'; did you mean 'Own'\?"):
        resolve("balancers", "own_method.Onw")
    with pytest.raises(InputError, match=r"'broken_method' cannot be imported .*not_there_at_all"):
        resolve("balancers", "broken_method.Own")


@pytest.mark.usefixtures("outside")
def test_modules_outside_need_trust() -> None:
    for trust in ([], ["own"], ["own_method.sub"]):
        with pytest.raises(InputError, match="if you trust that code add --trust own_method"):
            resolve("balancers", "own_method.Own", trust=trust)
    assert "own_method" not in sys.modules
    assert resolve("balancers", "own_method.Own", trust=["own_method"]).__name__ == "Own"
    # What lies inside needs none, and a module that only begins like the package does.
    assert resolve("balancers", "polymodal.balancers.MLB", trust=[]) is balancers.MLB
    with pytest.raises(InputError, match="--trust polymodal_evil"):
        resolve("balancers", "polymodal_evil.MLB", trust=[])


class Plain:
    def __init__(self, width: int, depth: int = 1) -> None:
        if depth < 1:
            raise ValueError(f"depth {depth}")
        self.width, self.depth = width, depth


class Open(balancers.MultiLoss):
    def __init__(self, power: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.power = power


def test_build_gives_what_the_constructor_takes() -> None:
    made = build(Plain, {"depth": 2}, {"width": 3, "seed": 0}, "encoder")
    assert (made.width, made.depth) == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dept": 2}, r"encoder.dept: Plain has no such setting; did you mean 'depth'\?; it has \['depth'\]"),
        ({"width": 2}, "encoder.width: set by the library"),
        ({"depth": "x"}, r"encoder: Plain\(depth='x'\): '<' not supported"),
        ({"depth": 0}, r"encoder: Plain\(depth=0\): depth 0"),
    ],
)
def test_build_refuses(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        build(Plain, arguments, {"width": 3}, "encoder")


def test_build_tells_what_is_missing() -> None:
    with pytest.raises(InputError, match="width"):
        build(Plain, {}, {}, "encoder")


def test_own_classes_may_hand_options_on() -> None:
    made = build(Open, {"power": 2.0, "weights": 0.5}, {"seed": 3}, "balancer")
    assert made.power == 2.0
    with pytest.raises(InputError, match="Open"):
        build(Open, {"pwoer": 2.0}, {"seed": 3}, "balancer")


def test_bind_checks_without_calling() -> None:
    def never(setup: str, combine: str = "prob") -> None:
        raise AssertionError

    assert bind(never, {"combine": "logit"}, {"setup": "s"}, "recipe") == {"setup": "s", "combine": "logit"}
    with pytest.raises(InputError, match=r"recipe\.conbine"):
        bind(never, {"conbine": "logit"}, {"setup": "s"}, "recipe")
