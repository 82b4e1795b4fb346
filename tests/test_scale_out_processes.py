"""Whole runs in two gloo processes: as one process with the doubled batch, and sharded (FSDP2) as replicated (DDP)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.balancers import MLB, Balancer
from polymodal.config import load_config
from polymodal.data.synthetic import ArrayLoader, d4
from polymodal.distributed import world_size
from polymodal.encoders import SequenceTransformer
from polymodal.fit import fit
from polymodal.recipes import joint, mmlora, wander
from polymodal.recipes.base import Setup
from polymodal.run import RunFolder, load_weights
from polymodal.tasks import Classification
from polymodal.types import Batch
from tests.builders import BALANCERS, TASKS, difference, make_balancer, make_batch, make_model, weights
from tests.distributed import in_two_processes, share

TASK = TASKS["classification"]
Run = dict[str, Tensor]


class Shares(ArrayLoader):
    """A loader whose every batch is parted among the processes."""

    def __iter__(self) -> Iterator[Batch]:
        return map(share, super().__iter__())


# Whole recipes: 20 steps a stage --------------------------------------------------------------------------------------

RECIPES: dict[str, tuple[Any, dict[str, Any], type[Balancer]]] = {
    "mlb": (joint, {}, MLB),
    "mmlora": (mmlora, {"rank": 2, "keep": "adapted"}, Balancer),
    "wander": (wander, {"rank_t": 2, "rank_h": 2, "tokens": 4}, Balancer),
    "wander between layers": (wander, {"rank_t": 2, "rank_h": 2, "output": "per_modality", "last": 2}, MLB),
}


def run_recipe(name: str, *overrides: str) -> Run:
    """Weights after a run of Transformers on 128 samples of D4, five epochs of four batches of 32."""
    recipe, options, balancer = RECIPES[name]
    torch.set_default_dtype(torch.float64)  # for all that recipes make
    try:
        data = d4(128, 0, width=16)
        data = data._replace(inputs={m: data.inputs[m].double() for m in ("x1", "x2")})
        train = {"epochs": 5, "device": "cpu", "schedule": "constant", "select": "last"}
        settings = {"label": "y", "train": train, "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}}
        setup = Setup(
            modalities=("x1", "x2"), task=Classification(6), config=load_config(settings, overrides),
            train=Shares(data, 32, shuffle=True), valid=None,
            make_encoder=lambda m: SequenceTransformer(16, dim=8, depth=2 if m == "x1" else 3, heads=2, dropout=0.0),
            make_balancer=balancer, show=False,
        )  # fmt: skip
        return weights(recipe(setup, **options).model)
    finally:
        torch.set_default_dtype(torch.float32)


# Sharded and replicated -----------------------------------------------------------------------------------------------

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "joint": ("Balancer", {}, {}),
    "multi_loss": ("MultiLoss", {}, {"clip": 0.3}),
    "mlb": ("MLB", {}, {"accumulate": 2}),
    "mlb update": ("MLB", {"apply_to": "update"}, {"clip": 0.3}),
    "ogm_ge": ("OGM_GE", {}, {}),
    "agm": ("AGM", {}, {}),
    "mlb checkpointing": ("MLB", {}, {"checkpointing": True}),
}


def run_fit(case: str, shard: bool, epochs: int = 5, run: RunFolder | None = None) -> Run:
    """Weights after epochs of four steps, their validation loss, and the state of the balancer."""
    name, arguments, options = CASES[case]
    model = make_model(heads=name != "Balancer" and BALANCERS[name].needs_heads)
    balancer = Balancer() if name == "Balancer" else make_balancer(name, model, **arguments)
    train = [share(make_batch(seed=seed)) for seed in range(4 * options.get("accumulate", 1))]
    # Five samples for two processes: one of them has a batch more.
    valid = [make_batch(seed=9 + i, size=1) for i in range(5)][torch.distributed.get_rank() :: world_size()]
    history = fit(
        model, train, valid, task=TASK, epochs=epochs, balancer=balancer, schedule="constant", device="cpu", show=False,
        select="last", run=run, shard=shard, optimizer=torch.optim.SGD(model.param_groups(0.05), momentum=0.9), **options,
    )  # fmt: skip
    state = {f"balancer.{key}": value.double() for key, value in balancer.state_dict().items()}
    return weights(model) | state | {"loss": torch.tensor(history.best["loss"])}


def in_each(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {name: run_recipe(name) for name in RECIPES}
    found |= {f"{name}/shard": run_recipe(name, "train.shard=true") for name in RECIPES if name != "mlb"}
    for case in CASES:
        found |= {f"{case}/{shard}": run_fit(case, shard) for shard in (False, True)}
    # A sharded run that stops after three epochs, and goes on sharded or replicated.
    for shard in (True, False):
        run_fit("mlb", True, 3, RunFolder(Path(folder) / str(shard), resume=True))
        found[f"resumed/{shard}"] = run_fit("mlb", shard, 5, RunFolder(Path(folder) / str(shard), resume=True))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[Any]:
    return in_two_processes(in_each, str(folder))


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_equal_one_with_the_doubled_batch(name: str, runs: list[Any]) -> None:
    first, second = runs
    assert difference(first[name], second[name]) == 0
    assert difference(first[name], run_recipe(name)) <= 1e-9


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "mlb"])
def test_sharded_recipe_equals_replicated(name: str, runs: list[Any]) -> None:
    for found in runs:
        assert difference(found[f"{name}/shard"], found[name]) <= 1e-9


@pytest.mark.parametrize("case", CASES)
def test_sharded_equals_replicated(case: str, runs: list[Any]) -> None:
    for found in runs:
        assert difference(found[f"{case}/True"], found[f"{case}/False"]) <= 1e-9


@pytest.mark.parametrize("shard", [True, False])
def test_sharded_run_goes_on(shard: bool, runs: list[Any], folder: Path) -> None:
    for found in runs:
        assert difference(found[f"resumed/{shard}"], found["mlb/False"]) <= 1e-9
    saved = load_weights(folder / str(shard) / "model.safetensors")
    assert difference(saved, {key: runs[0]["mlb/False"][key] for key in saved}) <= 1e-9
