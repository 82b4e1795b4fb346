"""`import polymodal` is cheap, and its names are what they say."""

import subprocess
import sys
from importlib import import_module

import pytest

import polymodal as pm

HEAVY = {"torch", "transformers", "timm", "accelerate", "pandas", "sklearn", "matplotlib", "av"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    assert HEAVY & loaded_by("import polymodal") == set()


def test_command_line_loads_nothing_heavy() -> None:
    assert HEAVY & loaded_by("import polymodal.cli") == set()


def test_every_public_name_is_there() -> None:
    assert [name for name in pm.__all__ if not hasattr(pm, name)] == []
    assert dir(pm) == pm.__all__ == sorted(pm.__all__)


@pytest.mark.parametrize("name", ["fit", "evaluate"])
def test_importing_the_submodule_leaves_the_function(name: str) -> None:
    submodule = import_module(f"polymodal.{name}")
    assert getattr(pm, name) is getattr(submodule, name)


def test_unknown_name() -> None:
    assert not hasattr(pm, "Nothing")
