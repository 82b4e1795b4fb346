"""CMU-MOSEI (Zadeh et al. 2018): the sentiment of some 22,800 spoken sentences, as features of text, sound and face."""

from __future__ import annotations

from pathlib import Path

from polymodal.data.table import Table
from polymodal.datasets.base import Dataset, Preset
from polymodal.datasets.mosi import SENTIMENT, read_sentiment

__all__ = ["DATASET", "read"]


def read(root: str | Path, *, form: str = "aligned") -> Table:
    """Sentences with their sentiment from -3 to 3; columns as those of MOSI.

    Args:
        root: folder of the pickles.
        form: "aligned" (`mosei_senti_data.pkl`), "unaligned" (`mosei_senti_data_noalign.pkl`) or "lmf" (`mosei.pkl`, in the form
            of LMF's `mosi.pkl`).

    Raises:
        InputError: the file is missing, refused, or of another form.

    Source: Tsai et al. 2019, from general knowledge.
    """
    names = {"aligned": "mosei_senti_data.pkl", "unaligned": "mosei_senti_data_noalign.pkl", "lmf": "mosei.pkl"}
    return read_sentiment(Path(root), form, names, "mosei")


COUNTS = {"train": 16326, "valid": 1871, "test": 4659}

DATASET = Dataset(
    read,
    {
        "mult": Preset("MulT's aligned features (counts from general knowledge)", SENTIMENT, published=COUNTS),
        "mult_unaligned": Preset(
            "MulT's unaligned features (counts from general knowledge)", SENTIMENT, {"form": "unaligned"}, COUNTS
        ),
        "lmf": Preset(
            "features in LMF's form (counts from general knowledge)", SENTIMENT, {"form": "lmf"}, {"train": 16326}
        ),
    },
    help="""\
CMU-MOSEI: about 22,800 spoken sentences with a sentiment from -3 to 3 (Zadeh et al. 2018). All of this is from general knowledge.

Owner: http://multicomp.cs.cmu.edu/resources/cmu-mosei-dataset; the prepared features are those that MulT's authors link to
(github.com/yaohungt/Multimodal-Transformer).
Put into one folder ROOT:
  mosei_senti_data.pkl           for mosei/mult
  mosei_senti_data_noalign.pkl   for mosei/mult_unaligned
  mosei.pkl                      for mosei/lmf
These are pickles: polymodal reads arrays and plain values from them and refuses anything else.
Terms: for research; the videos belong to those who put them on YouTube.
""",
)
