"""From sound files to a saved model and back, with the encoders of sound and sequences that bring their preprocessing."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import polymodal as pm
from tests.data.files import write_sound
from tests.encoders.test_speech import BASE, SMALL

ENCODERS: dict[str, dict[str, Any]] = {
    "imagebind_audio": {"width": 8, "depth": 1, "heads": 2, "dim": 6},
    "wav2vec2": {"config": SMALL | BASE, "depth": 1},
    "speech_conformer": {"config": SMALL | BASE, "speech_depth": 1, "dim": 8, "depth": 1, "heads": 2, "freeze": "all"},
}


@pytest.mark.parametrize("name", ENCODERS)
def test_sound(name, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(16):
        write_sound(tmp_path / f"{i}.wav", 0.1 + 0.01 * i, pitch=300 + 500 * (i % 2))
        rows.append({"sound": f"{i}.wav", "v": rng.normal(size=(2 + i % 3, 4)).tolist(), "label": "ab"[i % 2]})
    frame = pd.DataFrame(rows)
    frame.to_parquet(tmp_path / "table.parquet")
    predictor = pm.Predictor(
        label="label",
        out=tmp_path / "run",
        modalities=["sound=sound:audio", "v=v:vector"],
        encoders={
            "sound": {"name": name, **ENCODERS[name]},
            "v": {"name": "sequence_transformer", "dim": 8, "depth": 1, "heads": 2},
        },
        # Of other encoders of sound, too, what the user sets wins over what the encoder asks for.
        overrides=["data.inputs.sound.n_mels=26", "data.inputs.sound.clip_frames=36"],
        epochs=1,
        batch_size=4,
        device="cpu",
        show=False,
    )
    predictor.fit(tmp_path / "table.parquet")
    expected = predictor.predict_proba(tmp_path / "table.parquet")
    found = pm.Predictor.load(tmp_path / "run", show=False).predict_proba(tmp_path / "table.parquet")
    assert np.isfinite(expected.to_numpy()).all()
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), atol=1e-6)
