"""CMU-MOSI (Zadeh et al. 2016): the sentiment of 2199 segments of film reviews, as features of text, sound and face."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polymodal.data.table import Table
from polymodal.datasets.base import Dataset, Preset, make_table, one_of
from polymodal.datasets.sequences import read_lmf, read_mult

__all__ = ["DATASET", "SENTIMENT", "read", "read_sentiment"]


def read(root: str | Path, *, form: str = "aligned") -> Table:
    """Segments with their sentiment from -3 to 3.

    Columns: id, text, audio, vision (arrays), label (a number), split.

    Args:
        root: folder of the pickles.
        form: "aligned" (`mosi_data.pkl`: 50 steps of words each), "unaligned" (`mosi_data_noalign.pkl`: 50 words, 375 steps of
            sound, 500 of the face), both MulT's, or "lmf" (`mosi.pkl`: sound and face as one vector).

    Raises:
        InputError: the file is missing, refused, or of another form.

    Source: Tsai et al. 2019; Liu et al. 2018.
    """
    names = {"aligned": "mosi_data.pkl", "unaligned": "mosi_data_noalign.pkl", "lmf": "mosi.pkl"}
    return read_sentiment(Path(root), form, names, "mosi")


def read_sentiment(root: Path, form: str, names: dict[str, str], dataset: str) -> Table:
    """The table of a set whose label is one number a segment."""
    name = names[one_of(form, names, f"form of {dataset}")]
    found = read_lmf(root, name, dataset) if form == "lmf" else read_mult(root, name, dataset)
    rows = [{**row, "label": float(np.asarray(label, np.float64).reshape(-1)[0])} for row, label in found]
    return make_table(rows, root, dataset, {})


SENTIMENT = {
    "label": "label",
    "data": {
        "modalities": ["text=text:vector", "audio=audio:vector", "vision=vision:vector"],
        "task": "regression",
        "sentiment": True,
        "inputs": {},
    },
}
COUNTS = {"train": 1284, "valid": 229, "test": 686}

DATASET = Dataset(
    read,
    {
        "mult": Preset("MulT's aligned features, 50 steps", SENTIMENT, published=COUNTS),
        "mult_unaligned": Preset("MulT's unaligned features", SENTIMENT, {"form": "unaligned"}, COUNTS),
        "lmf": Preset("LMF's features, sound and face averaged over time", SENTIMENT, {"form": "lmf"}, COUNTS),
    },
    help="""\
CMU-MOSI: 2199 segments of spoken film reviews with a sentiment from -3 to 3 (Zadeh et al. 2016).

Owner: http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset (from general knowledge); the prepared features are those that
MulT's authors (github.com/yaohungt/Multimodal-Transformer) and LMF's (github.com/Justin1904/Low-rank-Multimodal-Fusion) link to.
Put into one folder ROOT:
  mosi_data.pkl           for mosi/mult
  mosi_data_noalign.pkl   for mosi/mult_unaligned
  mosi.pkl                for mosi/lmf
These are pickles: polymodal reads arrays and plain values from them and refuses anything else.
Terms (from general knowledge; read the owner's own): for research; the videos belong to those who put them on YouTube.
""",
)
