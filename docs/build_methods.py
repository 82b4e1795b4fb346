"""The guide's page of each method, made from its docstring: python docs/build_methods.py [FOLDER].

What a docstring cannot know, when a method helped on data measured here, is in `guide/on_our_data.yaml`. The tests make the
pages anew, compare them with those that are committed, and run every example.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from polymodal.balancers import UMT
from polymodal.names import entries

DOCS = Path(__file__).parent
PACKAGES = {"balancers": "balancer", "fusion": "fusion", "recipes": "recipe"}
SECTIONS = ("Args", "Returns", "Raises", "Source", "Differs from the authors' code", "Attributes", "Example")
HEAD = re.compile(rf"^({'|'.join(SECTIONS)}):", re.MULTILINE)
USE = {
    "balancer": 'pm.Predictor(label="label", balancer={value}, epochs=1, show=False)',
    "fusion": 'pm.Predictor(label="label", fusion={value}, epochs=1, show=False)',
    "recipe": 'pm.Predictor(label="label", recipe={value}, epochs=1, show=False)',
}
SETTINGS = {name: '{"name": "NAME", "param_filter": "weights"}'.replace("NAME", name) for name in ("ogm", "ogm_ge")}
"""What an example on vectors, which have no convolutions, must set beside the name."""
OWN = {
    "mmbt": """\
frame["video"] = [one for one in random.normal(size=(60, 4, 3)) - (label == "cat")[:, None, None]]  # 2 x 2 cells
frame["title"] = np.where(label == "cat", "a small cat", "a large dog")
sizes = {"vocab_size": 64, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
predictor = pm.Predictor(
    label="label", modalities=["image=video:vector", "title=title:text"], overrides=["data.inputs.title.buckets=64"],
    recipe={"name": "mmbt", "sep": 3}, encoders={"image": "mlp", "title": {"name": "bert", "config": sizes}},
    epochs=1, show=False,
)"""
}
"""Predictors of methods that not every table suits."""
INSIDE = {("recipe", "umt"): UMT}
"""Balancers that only a recipe can make."""
FRAME = """\
import numpy as np
import pandas as pd

import polymodal as pm

random = np.random.default_rng(0)
label = np.tile(["cat", "dog"], 30)
frame = pd.DataFrame({
    "sound": [one for one in random.normal(size=(60, 4)) + (label == "cat")[:, None]],
    "video": [one for one in random.normal(size=(60, 3)) - (label == "cat")[:, None]],
    "label": label,
})
"""


def sections(text: str) -> dict[str, str]:
    """The parts of a docstring by their heads; what comes first is "What"."""
    pieces = HEAD.split(text)
    found = {"What": pieces[0].strip()}
    for head, body in zip(pieces[1::2], pieces[2::2], strict=True):
        found[head] = inspect.cleandoc(" " + body if body[:1] != "\n" else body).strip()
    return found


def arguments(text: str) -> Iterator[tuple[str, str]]:
    """Name and meaning of each argument of an "Args" section."""
    for item in re.split(r"\n(?=\S)", text):
        name, _, meaning = item.partition(":")
        yield name.strip(), " ".join(meaning.split())


def imports(example: str, module: ModuleType) -> str:
    """Import lines of what a docstring's example takes from the globals of its module."""
    code = "".join(one.source for one in doctest.DocTestParser().get_examples(example))
    lines = set()
    for node in ast.walk(ast.parse(code)):
        value = vars(module).get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(value, ModuleType):
            alias = "" if value.__name__ == node.id else f" as {node.id}"
            lines.add(f">>> import {value.__name__}{alias}\n")
        elif value is not None:
            lines.add(f">>> from {value.__module__} import {node.id}\n")
    return "".join(sorted(lines))


def page(kind: str, name: str, method: Any, on_our_data: str) -> str:
    """Markdown of one method's page."""
    told = sections(inspect.getdoc(method) or "")
    title = "Joint" if name == "joint" and kind == "balancer" else method.__name__
    lines = [f"# {title}", f"A {kind}: `--{kind} {name}`, `{kind}={name!r}`.".replace("'", '"')]
    lines += ["## What it computes", told["What"]]
    module = import_module(method.__module__)
    for entry in getattr(module, "__all__", ()):
        rule = getattr(module, entry)
        if inspect.isfunction(rule) and rule is not method and rule.__module__ == module.__name__:
            parts = sections(inspect.getdoc(rule) or "")
            source = f" Source: {' '.join(parts['Source'].split())}" if "Source" in parts else ""
            lines.append(
                f"`{entry}{inspect.signature(rule)}`: ".replace("'", "") + " ".join(parts["What"].split()) + source
            )
    if (inside := INSIDE.get((kind, name))) is not None:
        parts = sections(inspect.getdoc(inside) or "")
        lines.append(f"It trains under `polymodal.balancers.{inside.__name__}`: {parts['What']}")
    if "Args" in told:
        lines.append("## Settings")
        lines.append("\n".join(f"- `{name}`: {meaning}" for name, meaning in arguments(told["Args"])))
    lines += ["## On our data", on_our_data.strip()]
    lines += ["## Source, and where paper and code differ", told.get("Source", "Ours.")]
    if "Differs from the authors' code" in told:
        lines.append("Differs from the authors' code: " + told["Differs from the authors' code"])
    if "Raises" in told:
        lines += ["## Errors", "\n".join(f"- `{error}`: {why}" for error, why in arguments(told["Raises"]))]
    lines.append("## Example")
    if "Example" in told:
        lines.append(f"```pycon\n{imports(told['Example'], module)}{told['Example']}\n```")
    plain = USE[kind].format(value=SETTINGS.get(name, f'"{name}"'))
    use = OWN.get(name, f"predictor = {plain}")
    fit = f"{use}\npredictor.fit(frame)\nassert len(predictor.predict(frame)) == 60"
    lines.append(f"On a table, which may as well be a CSV file:\n\n```python\n{FRAME}{fit}\n```")
    return "\n\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Every page by its file name.

    Raises:
        KeyError: a method of which `on_our_data.yaml` says nothing.
    """
    measured = yaml.safe_load((DOCS / "guide" / "on_our_data.yaml").read_text(encoding="utf-8"))
    found, index = {}, ["# Methods", "One page each, from the docstrings of the code (`python docs/build_methods.py`)."]
    for package, kind in PACKAGES.items():
        index.append(f"## {package.capitalize()}")
        items = []
        for name, method in entries(package, bases=("Fusion",)).items():
            file = f"{kind}-{name}.md"
            found[file] = page(kind, name, method, measured[kind][name])
            items.append(f"- [`{name}`]({file}): {sections(inspect.getdoc(method) or '')['What'].splitlines()[0]}")
        index.append("\n".join(items))
    return found | {"index.md": "\n\n".join(index) + "\n"}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "guide" / "methods"
    made = pages()  # first: where one fails, the old pages stay
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
