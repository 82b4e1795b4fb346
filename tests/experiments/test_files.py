"""The experiment files: every published figure is one cell of one file, and the settings of every cell are such that run."""

from __future__ import annotations

import csv
import inspect
import json
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from polymodal import names
from polymodal.adapters import insert
from polymodal.adapters.by_name import options_of
from polymodal.adapters.experts import ExpertLayers
from polymodal.config import Config, Part, laid, read_yaml
from polymodal.encoders import Expert, SequenceTransformer
from polymodal.encoders.presets import PRETRAINED
from polymodal.errors import InputError
from polymodal.experiment.costs import costs
from polymodal.experiment.figures import METRICS
from polymodal.experiment.file import Cell, Experiment, read_experiment
from polymodal.experiment.fingerprints import configuration
from polymodal.recipes.over_experts import acts_between_layers
from tests.modules import ROOT

FOLDER = ROOT / "experiments"
PAPERS = {"mmlora2023": "mmlora", "wander2025": "wander", "mlb2024": "mlb"}
FILES = sorted(path for start in PAPERS.values() for path in FOLDER.glob(f"{start}_*.yaml"))
DRAWN = {
    "performance": {"acc2", "f1"},
    "acc_or_r_at_10": {"top1", "acc2", "r_at_10_t2v"},
}
"""The metrics that stand for one that the csv names as the figure's axis."""
BUILT = ("recipe", "balancer", "fusion", "encoders", "data")
DIM = 64
OF_RECIPE = {"fine_tune", "start_from", "checkpoints", "after"}
"""What recipe `wander` has beside the settings of its adapter."""
MEASURES = ("fused", "alone", "probe", "gain", "fact", "cost")
FROM_DATA = {
    "channels", "frames", "height", "width_pixels", "bins", "length", "samples", "buckets", "in_dim",
}  # fmt: skip
"""What encoders' constructors are told of their input."""


@cache
def published() -> list[dict[str, str]]:
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def read(path: Path) -> Experiment:
    return read_experiment(path)


def printed(path: Path) -> Counter[tuple[str, ...]]:
    """The cells of a file, each figure with the digits that the file has."""
    tree = read_yaml_as_text(path)
    found: Counter[tuple[str, ...]] = Counter()
    for row in tree["rows"]:
        key = (tree["paper"], tree["table"], row["row"], row.get("backbone", ""))
        for data, metrics in row["published"].items():
            for metric, value in metrics.items():
                found[*key, data, row.get("modality", ""), metric, value] += 1
    return found


def read_yaml_as_text(path: Path) -> dict[str, Any]:
    """The file with every number as it is written."""
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    return found


def test_every_published_figure_is_one_cell() -> None:
    key = ("paper", "table", "row", "backbone", "dataset", "modality", "metric", "value")
    wanted = Counter(tuple(line[name] for name in key) for line in published() if line["value"])
    found: Counter[tuple[str, ...]] = Counter()
    for path in FILES:
        found += printed(path)
    found = Counter({cell: count for cell, count in found.items() if cell[-1] != "null"})
    assert sum(wanted.values()) > 500
    assert not wanted - found, "published figures that no file has"
    assert not found - wanted, "figures of files that nobody published"


def test_what_is_only_drawn_is_null() -> None:
    drawn = {(line["paper"], line["table"]): line["metric"] for line in published() if not line["value"]}
    known = {(line["paper"], line["table"]) for line in published()}
    files = {path.stem: read(path) for path in FILES}
    assert {(one.paper, one.table) for one in files.values()} == known
    for name, experiment in files.items():
        assert name == f"{PAPERS[experiment.paper]}_{experiment.table}"
        metric = drawn.get((experiment.paper, experiment.table))
        values = {m: v for cell in experiment.cells() for m, v in cell.published.items()}
        if metric is not None:
            assert set(values) == DRAWN.get(metric, {metric})
            assert set(values.values()) == {None}
        else:
            assert None not in values.values()


def roots(path: Path) -> dict[str, str]:
    """A made-up place for each data set; nothing is read from it."""
    return {name: f"{one.source}:/nowhere" if one.source else one.table or "" for name, one in read(path).data.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_settings(path: Path) -> None:
    experiment, tables = read(path), roots(path)
    assert experiment.note, "what the paper does not say"
    for cell in experiment.cells():
        row = cell.row
        what, _, modality = row.measure.partition(":")
        assert what in MEASURES
        place = f"{row.label} on {cell.data}"
        if what == "fact" or row.settings is None:
            assert what == "fact" or row.note or experiment.show, f"{place}: say why nothing runs"
            continue
        if what == "cost":
            assert set(row.settings) == {"form", "lengths", "dims", "tokens", "output", "rank", "batch"}
            continue
        for metric in cell.published:
            assert metric in METRICS or metric == "tunable_params_m" or what == "gain", f"{place}: {metric}"
        for name in cell.sets:
            try:
                config = configuration({**experiment.settings(cell, name), "table": tables[name], "seed": 0})
                check_parts(config)
                build_parts(json.dumps([config.model_dump()[key] for key in BUILT], sort_keys=True))
            except InputError as error:
                raise AssertionError(f"{place}: {error}") from error
            known = {one.partition("=")[0] for one in config.data.modalities}
            assert set(config.encoders) <= known, f"{place}: encoders of no modality"
            assert not modality or modality in known, f"{place}: measure {row.measure}"
            if "start_from" in config.recipe.arguments:
                check_start(experiment, str(config.recipe.arguments["start_from"]), place)


def check_parts(config: Config) -> None:
    """That the arguments of every part are such that its constructor takes."""
    given = dict.fromkeys(("setup", "dims", "outputs", "kind", "encoder", "encoders", "module", "lengths"))
    for package, part in (("recipes", config.recipe), ("balancers", config.balancer), ("fusion", config.fusion)):
        bound(package, part, given)
    method = config.recipe.arguments.get("method")
    if method is not None:
        settings = Part.model_validate(method)
        options = set(options_of(settings.name))
        assert set(settings.arguments) <= options, f"adapter {settings.name}: {settings.arguments}"
    if config.recipe.name == "wander":  # what its recipe hands on
        assert set(config.recipe.arguments) - OF_RECIPE <= set(options_of("wander"))
    for m, part in config.encoders.items():
        named = PRETRAINED.get(part.name)
        whole = part if named is None else Part(name=named.encoder, **{**named.settings, **part.arguments})
        bound("encoders", whole, {}, f"encoders.{m}")
    trained = {
        "unimodal_",
        "linear_",
        "joint",
        "mmlora",
        "full_ume",
        "frozen_features",
        "adapter",
        "wander",
        "retrieval",
    }
    for stage in config.stages:
        assert stage.startswith(tuple(trained)), f"stages.{stage}"


@cache
def build_parts(text: str) -> None:
    """That balancer, fusion and adapter can be made over modalities of these names, with small encoders."""
    recipe, balancer, fusion, encoders, data = json.loads(text)
    modalities = [one.partition("=")[0] for one in data["modalities"]]
    made("balancers", balancer, {})
    query = fusion.get("query")
    assert query is None or query in modalities
    chosen = recipe.get("modalities") or modalities
    assert set(chosen) <= set(modalities), f"recipe.modalities={chosen}"
    if fusion["name"] != "mmt":  # its layers are wide, whatever its encoders are
        made(
            "fusion",
            {**fusion, **({"width": DIM} if "width" in fusion else {})},
            {"dims": dict.fromkeys(modalities, DIM)},
        )
    part = recipe.get("method") or (
        {k: v for k, v in recipe.items() if k not in OF_RECIPE} if recipe["name"] == "wander" else {}
    )
    if not part:
        return
    single = bool({"encoder", "module"} & set(options_of(part["name"])))
    own = [m for m in modalities if m != query or (single and m in chosen)]
    with torch.device("meta"):  # shapes alone
        small: dict[str, torch.nn.Module] = {m: small_encoder(encoders.get(m, {}).get("name", "")) for m in own}
        if fusion["name"] == "mmt" and acts_between_layers(options_of(part["name"]), part):
            layer = torch.nn.TransformerEncoderLayer(DIM, 2, 8, batch_first=True)
            layers = torch.nn.ModuleList([layer] * int(fusion.get("depth", 4)))
            small = {m: ExpertLayers(layers, DIM) for m in own}
        only = [m for m in chosen if m in own] if single else None
        insert(part, small, lengths=dict.fromkeys(own, 5), modalities=only)


def small_encoder(name: str) -> Expert | SequenceTransformer:
    return Expert(DIM, dim=DIM) if name == "expert" else SequenceTransformer(DIM, dim=DIM, depth=12, heads=8)


def made(package: str, part: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    make = names.resolve(package, part["name"], bases=("Balancer", "Fusion"))
    known = {"outputs": 3, "kind": "categorical", **given} if given else {}
    names.build(make, {key: value for key, value in part.items() if key != "name"}, known, package)


def bound(package: str, part: Part, given: Mapping[str, Any], place: str = "") -> None:
    make = names.resolve(package, part.name, bases=("Balancer", "Fusion", "Encoder", "LayeredEncoder", "State"))
    found = names.bind(make, part.arguments, given, place or package)
    needed = {
        one.name
        for one in inspect.signature(make).parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    }
    assert needed <= set(found) | FROM_DATA, f"{place or package} {part.name}: {needed - set(found)}"


def check_start(experiment: Experiment, text: str, place: str) -> None:
    """That another row is named, which runs on that data set."""
    label, _, data = text.removeprefix("row:").rpartition("@")
    (row,) = [one for one in experiment.rows if one.label == label]
    assert text.startswith("row:"), f"{place}: {text}"
    assert data in row.published, f"{place}: {text}"


def test_a_typing_error_is_told() -> None:
    path = FOLDER / "mmlora_table9.yaml"
    experiment, tables = read(path), roots(path)
    cell = experiment.cells()[0]
    good = {**experiment.settings(cell, "AVE"), "table": tables["AVE"]}
    for wrong, told in (
        ({"recipe": {"rnak": 1}}, "did you mean 'rank'"),
        ({"encoders": {"audio": "imagebind_hueg"}}, "is unknown"),
        ({"train": {"epoch": 1}}, "epochs"),
    ):
        with pytest.raises(InputError, match=told):
            check_parts(configuration(laid(good, wrong)))


def test_parameters_of_the_example() -> None:
    """348B and 14M, as section 4.4 of the paper has them."""
    for cell in read(FOLDER / "wander_text.yaml").cells():
        if cell.row.measure == "cost":
            for metric, value in cell.published.items():
                assert costs(cell.row.settings, metric)[0] == pytest.approx(value, rel=0.02)


def test_rows_that_share_settings_share_runs() -> None:
    """The uni-modal models of MMLoRA's tables are one run a data set."""
    found = set()
    for name, label in (
        ("mmlora_table1", "Fine-tuned Visual Model / ViT-B / rgb"),
        ("mmlora_table3", "Uni-Modal Fine-Tuned / ViT-B / audio"),
        ("mmlora_table4", "fine-tuning / ViT-B / rgb"),
        ("mmlora_table5", "UME* / ViT-B/ViT-B"),
        ("mmlora_table8", "Uni-Modal Fine-Tuned / ViT-B / rgb"),
        ("mmlora_table10", "UME / ViT-B/ViT-B"),
    ):
        path = FOLDER / f"{name}.yaml"
        experiment = read(path)
        (row,) = [one for one in experiment.rows if one.label == label]
        values = {**experiment.settings(Cell(row, "AVE", {}), "AVE"), "table": roots(path)["AVE"]}
        found.add(configuration(values).model_dump_json())
    assert len(found) == 1


def test_the_readme_names_every_file() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FILES:
        assert f"[{path.stem}]({path.name})" in text
    assert read_yaml(FILES[0])["paper"] in PAPERS
