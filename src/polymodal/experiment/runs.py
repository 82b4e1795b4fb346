"""One run of a table or a sweep: trained once, known by a fingerprint of everything that decides its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymodal.experiment.fingerprints import configuration
from polymodal.experiment.shared_stages import keep, lend, stages_key
from polymodal.run import RunFolder, load_weights, notes_in_files_only

__all__ = ["measure"]


def measure(values: Mapping[str, Any], out: Path, *, probe: bool = False, show: bool | None = None) -> dict[str, Any]:
    """Train a run, go on with one that was stopped, or read one that is finished.

    Args:
        values: tree of settings with label, table and seed.
        out: the run's folder, RUNS/<name>; uni-modal stages that runs have in common are trained once and lie in RUNS/../stages.
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
        config, shared = configuration(values), stages_key(values)
        store = None if shared is None else out.parent.with_name("stages") / shared
        if store is not None:
            lend(store, run)
        predictor = Predictor(config=config, out=out, show=show)
        with notes_in_files_only():
            predictor.fit(str(config.table), config.valid, resume=any(run.path.glob("*")))
        if store is not None:
            keep(store, run)
    metrics, timing = run.read_json("metrics.json"), run.read_json("timing.json")
    seconds = dict(timing["seconds"])
    trained = seconds.pop("all") - seconds.pop("evaluation")
    found = {
        **{part: metrics[part] for part in ("valid", "test") if part in metrics},
        "unimodal": {part: one for part, one in metrics["unimodal"].items() if part != "from"},
        "parameters": _parameters(run),
        "trainable": next(reversed(timing["trainable"].values()), 0),
        "seconds": max(trained, sum(seconds.values())),  # with stages that another run or attempt trained
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
