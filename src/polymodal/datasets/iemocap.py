"""IEMOCAP (Busso et al. 2008): emotions of ten actors in five sessions, as features of text, sound and face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from polymodal.data.table import Table
from polymodal.datasets.base import Dataset, Preset, make_table, one_of
from polymodal.datasets.sequences import read_lmf, read_mmin, read_mult
from polymodal.errors import InputError

__all__ = ["DATASET", "EMOTIONS", "read"]

EMOTIONS = ("Neutral", "Happy", "Sad", "Angry")
FORMS = ("aligned", "unaligned", "lmf", "mmin")
NO_YES = ("no", "yes")


def read(root: str | Path, *, form: str = "aligned", emotion: str = "happy", fold: int = 1) -> Table:
    """Utterances with their emotion.

    Columns: id, text, audio, vision (arrays), label, split. The label of MulT's form is the list of those of `EMOTIONS` that are
    there, of LMF's "yes" or "no" for one emotion, of MMIN's the number 0 to 3 of a class.

    Args:
        root: folder of the pickles, or of MMIN's folders.
        form: "aligned" (`iemocap_data.pkl`), "unaligned" (`iemocap_data_noalign.pkl`), "lmf" (`iemocap.pkl`), "mmin".
        emotion: key of `iemocap.pkl` ("lmf" only).
        fold: of MMIN's lists ("mmin" only).

    Raises:
        InputError: a file is missing, refused, or of another form.

    Source: Tsai et al. 2019; Liu et al. 2018; Zhao et al. 2021.
    """
    root = Path(root)
    one_of(form, FORMS, "form of iemocap")
    if form == "lmf":
        rows = [
            {**row, "label": NO_YES[_choice(one, 2)]} for row, one in read_lmf(root, "iemocap.pkl", "iemocap", emotion)
        ]
        return make_table(rows, root, "iemocap", {"label": NO_YES})
    if form == "mmin":
        rows = [{**row, "label": str(_choice(one, 4))} for row, one in read_mmin(root, fold, "iemocap")]
        return make_table(rows, root, "iemocap", {"label": ("0", "1", "2", "3")})
    name = "iemocap_data.pkl" if form == "aligned" else "iemocap_data_noalign.pkl"
    rows = [{**row, "label": _emotions(one, row["id"])} for row, one in read_mult(root, name, "iemocap")]
    return make_table(rows, root, "iemocap", {"label": EMOTIONS})


def _emotions(label: NDArray[Any], name: str) -> list[str]:
    """Of (4, 2), one-hot in the last axis: the emotions whose second entry is the larger."""
    if label.shape != (len(EMOTIONS), 2):
        raise InputError(f"iemocap: the label of {name} has the shape {label.shape}; expected {(len(EMOTIONS), 2)}")
    return [one for one, on in zip(EMOTIONS, label.argmax(-1), strict=True) if on]


def _choice(label: NDArray[Any], count: int) -> int:
    """The class of a label that is one-hot, or a number."""
    flat = label.reshape(-1)
    found = int(flat.argmax()) if len(flat) == count else int(flat[0])
    if not 0 <= found < count:
        raise InputError(f"iemocap: label {found}; expected 0 to {count - 1}")
    return found


MODALITIES = ["text=text:vector", "audio=audio:vector", "vision=vision:vector"]
MULTILABEL = {"label": "label", "data": {"modalities": MODALITIES, "task": "multilabel", "inputs": {}}}
CLASSES = {"label": "label", "data": {"modalities": MODALITIES, "task": "classification", "inputs": {}}}

DATASET = Dataset(
    read,
    {
        "mult": Preset(
            "MulT's aligned features, 20 steps; each emotion there or not", MULTILABEL, published={"classes": 4}
        ),
        "mult_unaligned": Preset("MulT's unaligned features", MULTILABEL, {"form": "unaligned"}, {"classes": 4}),
        "lmf": Preset("LMF's features; one emotion (emotion=happy) or not", CLASSES, {"form": "lmf"}, {"classes": 2}),
        "wander": Preset(
            "MMIN's features and folds, as Wander's author uses them", CLASSES, {"form": "mmin"}, {"classes": 4}
        ),
    },
    help="""\
IEMOCAP: emotions of ten actors in five sessions (Busso et al. 2008).

Owner: https://sail.usc.edu/iemocap (a licence is signed); the prepared features are those that the authors of MulT
(github.com/yaohungt/Multimodal-Transformer), LMF (github.com/Justin1904/Low-rank-Multimodal-Fusion) and MMIN
(github.com/AIM3-RUC/MMIN) link to.
Put into one folder ROOT:
  iemocap_data.pkl, iemocap_data_noalign.pkl      for iemocap/mult and iemocap/mult_unaligned
  iemocap.pkl                                     for iemocap/lmf
  A/comparE.h5, A/comparE_mean_std.h5, V/denseface.h5, L/bert_large.h5, target/<fold>/{trn,val,tst}_{label,int2name}.npy
                                                  for iemocap/wander
Pickles are read for arrays and plain values, and refused for anything else.
Terms (from general knowledge; read the owner's own): the licence of USC's Signal Analysis and Interpretation Laboratory.
""",
)
