"""Imports inside the package go downwards only (docs/architecture.md, Floors)."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

import polymodal
from tests.modules import FILES

FLOORS = [
    {"types", "metrics", "distributed", "run", "config", "names", "errors", "progress", "blocks", "optim", "sharding"},
    {"encoders", "fusion", "balancers", "datasets", "data", "tasks"},
    {"adapters"},
    {"model"},
    {"evaluate", "loop", "checkpointing", "compiling", "sharded", "fit"},
    {"recipes"},
    {"predictor"},
    {"analysis"},
    {"experiment", "demo"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
ABOVE_ON_ITS_FLOOR = {("datasets", "data"), ("fit", "evaluate"), ("loop", "evaluate"), ("fit", "loop")} | {
    ("fit", switch) for switch in ("checkpointing", "compiling", "sharded")
}


def room(module: str) -> str:
    return module.split(".")[1]


def may_import(user: str, used: str) -> bool:
    """Whether the room `user` may import from the room `used`; those of the ground floor may use each other."""
    if user == used or FLOOR_OF[user] == FLOOR_OF[used] == 1:
        return True
    return FLOOR_OF[used] < FLOOR_OF[user] or (user, used) in ABOVE_ON_ITS_FLOOR


def imports(module: str) -> Iterator[str]:
    """Files of the package that a file imports anywhere, also inside functions and for type checkers alone."""
    file = FILES[module]
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            if source not in FILES:
                continue
            for alias in node.names:
                name = alias.name
                if source == "polymodal":
                    name = polymodal._MODULE_OF.get(name, name)
                yield f"{source}.{name}" if f"{source}.{name}" in FILES else source


@pytest.mark.parametrize("module", [name for name in FILES if name != "polymodal"])
def test_imports_go_downwards(module: str) -> None:
    assert room(module) in FLOOR_OF, f"draw {room(module)} on a floor, here and in docs/architecture.md"
    used = {name for name in imports(module) if name != "polymodal"}
    assert {name for name in used if not may_import(room(module), room(name))} == set()


def test_no_circle() -> None:
    graph = {name: set(imports(name)) for name in FILES if name != "polymodal"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"files import each other in a circle: {' <- '.join(error.args[1])}")


def test_rules_tell_up_from_down() -> None:
    assert may_import("model", "encoders")
    assert may_import("fit", "evaluate")
    assert may_import("datasets", "data")
    assert not may_import("evaluate", "fit")
    assert not may_import("data", "datasets")
    assert not may_import("balancers", "fusion")
    assert not may_import("encoders", "model")
