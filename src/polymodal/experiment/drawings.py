"""Pictures that a figure of a paper shows of its runs: calibration, agreement of models, coefficients over epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from polymodal.analysis.agreement import agreement_matrix
from polymodal.analysis.reports.errors import calibration_figure
from polymodal.analysis.reports.figures import Series, lines
from polymodal.analysis.reports.html import Markup, Section, figure, grid, section, table
from polymodal.analysis.reports.record import Record, read_record
from polymodal.balancers.mlb import mlb_coefficients
from polymodal.experiment.results import Results

__all__ = ["drawings"]

RATIOS = np.linspace(0.0, 3.0, 31)
SHOWN = ((0.5, 10.0), (1.0, 10.0), (2.0, 10.0), (1.0, 5.0), (1.0, 2.0))
"""alpha and beta_max of the curves; the paper's own are not in its text."""


def drawings(results: Results) -> list[Section]:
    """The pictures that the file asks for under `show`."""
    made = []
    wanted = results.experiment.show
    if "coefficients" in wanted:
        made.append(
            section("coefficients", "Coefficients", "Coefficient of an encoder over its ratio of scores", _formula())
        )
    runs = _first_runs(results) if {"reliability", "agreement"} & set(wanted) else {}
    if "reliability" in wanted:
        found = [
            one
            for i, (label, run) in enumerate(runs.items())
            if (one := calibration_figure(run, f"r{i}", f"{label}, first seed")) is not None
        ]
        made += (
            [section("calibration", "Calibration", "Can the probabilities be trusted", grid(*found))] if found else []
        )
    if "agreement" in wanted:
        found = [one for label, run in runs.items() if (one := _agreement(label, run)) is not None]
        made += (
            [section("agreement", "Agreement", "Right where one modality alone is right", grid(*found))]
            if found
            else []
        )
    return made


def _first_runs(results: Results) -> dict[str, Record]:
    """The finished run of the first seed of each row on each data set."""
    found: dict[str, Record] = {}
    for (row, data, _), path in sorted(results.runs.items(), key=lambda one: one[0][2]):
        label = f"{row} on {data}"
        if label not in found and (Path(path) / "metrics.json").is_file():
            found[label] = read_record(path)
    return found


def _agreement(label: str, run: Record) -> Markup | None:
    shown = run.shown
    if shown is None or shown.target.ndim != 1 or len(shown.unimodal) < 2:
        return None
    right = {m: one == shown.target for m, one in shown.unimodal.items()}
    found = agreement_matrix(right, shown.fused == shown.target)
    rows = [
        [
            group,
            int(found.counts[i].sum()),
            *found.percent[i].tolist(),
            None if np.isnan(found.rate[i]) else found.rate[i],
        ]
        for i, group in enumerate(found.groups)
    ]
    heads = ["alone", "samples", "fused wrong, % of all", "fused right, % of all", "rate in the group"]
    return table(f"{label}, first seed", heads, rows)


def _formula() -> Markup:
    """The curve of k = 1 + (beta - 1) tanh(alpha (r - 1)) over the ratio r."""
    series = []
    for i, (alpha, beta_max) in enumerate(SHOWN):
        values = mlb_coefficients(torch.from_numpy(RATIOS), alpha, beta_max).tolist()
        series.append(Series(f"α {alpha:g}, β {beta_max:g}", RATIOS.tolist(), values, i))
    rows = [[one.name, x, y] for one in series for x, y in zip(one.x, one.y, strict=True) if round(x * 10) % 5 == 0]
    data = table("Coefficients", ["setting", "ratio", "coefficient"], rows)
    drawing = lines("coefficients-chart", "Coefficient over ratio", series, "coefficient", x_label="ratio of scores")
    return figure("k over r", drawing, "The formula of the library at settings of ours.", data, wide=True)
