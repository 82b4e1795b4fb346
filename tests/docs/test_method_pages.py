"""The guide's page of each method: as the docstrings are now, and with examples that run."""

from __future__ import annotations

import doctest
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import pytest

from tests.modules import ROOT

FOLDER = ROOT / "docs" / "guide" / "methods"
PYCON = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = spec_from_file_location("build_methods", ROOT / "docs" / "build_methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["build_methods"] = module
    spec.loader.exec_module(module)
    return module


def test_pages_are_those_of_the_docstrings(builder: ModuleType) -> None:
    made = builder.pages()
    assert {file.name for file in FOLDER.glob("*.md")} == set(made)
    stale = [name for name, text in made.items() if (FOLDER / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run python docs/build_methods.py"


def test_every_page_says_what_formula_when_where_and_how(builder: ModuleType) -> None:
    heads = ("## What it computes", "## On our data", "## Source, and where paper and code differ", "## Example")
    for name, text in builder.pages().items():
        if name != "index.md":
            assert all(head in text for head in heads), name
            assert "TODO" not in text, name


@pytest.mark.parametrize("name", sorted(file.name for file in FOLDER.glob("*-*.md")))
def test_examples_run_from_nothing(name: str) -> None:
    for number, block in enumerate(PYCON.findall((FOLDER / name).read_text(encoding="utf-8"))):
        test = doctest.DocTestParser().get_doctest(block, {}, f"{name}[{number}]", name, 0)
        runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
        assert runner.run(test).failed == 0
