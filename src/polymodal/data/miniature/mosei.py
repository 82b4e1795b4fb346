"""CMU-MOSEI in miniature, in the forms of MOSI."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polymodal.data.miniature.mosi import write_sentiment

WIDTHS = {"text": 300, "audio": 74, "vision": 35}


def write(root: Path, random: np.random.Generator) -> None:
    """Widths are those of MulT's features."""
    write_sentiment(root, random, ("mosei_senti_data.pkl", "mosei_senti_data_noalign.pkl", "mosei.pkl"), WIDTHS)
