"""CMU-MOSI and CMU-MOSEI: MulT's and LMF's pickles."""

import os
import pickle

import numpy as np
import pytest

from polymodal.data.miniature import make
from polymodal.datasets import open_table
from polymodal.errors import InputError
from tests.datasets.test_safe_files import Runs, dump
from tests.datasets.ways import check_fit_evaluate, counts, small_sequences

SETS = {"mosi": ("mosi_data.pkl", "mosi.pkl", (5, 20)), "mosei": ("mosei_senti_data.pkl", "mosei.pkl", (74, 35))}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return {name: make(name, tmp_path_factory.mktemp(name) / name) for name in SETS}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("source", "steps"), [("mult", (6, 6, 6)), ("mult_unaligned", (6, 12, 15))])
def test_mult_form(roots, name, source, steps):
    table = open_table(f"{name}/{source}:{roots[name]}")
    assert counts(f"{name}/{source}:{roots[name]}") == {"train": 40, "valid": 12, "test": 16}
    row = table.frame.iloc[1]
    widths = (300, *SETS[name][2])
    assert [row[m].shape for m in ("text", "audio", "vision")] == list(zip(steps, widths, strict=True))
    assert row["id"] == "video1_1.5_2.0"
    assert all(-3 <= label <= 3 for label in table.frame["label"])


def test_values_are_those_of_the_pickle(roots):
    whole = pickle.loads((roots["mosi"] / "mosi_data.pkl").read_bytes())
    table = open_table(f"mosi:{roots['mosi']}")
    test = table.frame[table.frame["split"] == "test"]
    assert np.array_equal(np.stack(list(test["text"])), whole["test"]["text"])
    assert list(test["label"]) == whole["test"]["labels"][:, 0, 0].tolist()


def test_silence_is_zero(roots):
    whole = pickle.loads((roots["mosi"] / "mosi_data.pkl").read_bytes())
    assert np.isneginf(whole["train"]["audio"][0, 0, -1])
    audio = open_table(f"mosi:{roots['mosi']}").frame["audio"][0]
    assert audio[0, -1] == 0
    assert np.array_equal(audio[1:], whole["train"]["audio"][0, 1:])


@pytest.mark.parametrize("name", SETS)
def test_lmf_form(roots, name):
    whole = pickle.loads((roots[name] / SETS[name][1]).read_bytes(), encoding="bytes")
    assert set(whole) == {b"train", b"valid", b"test"}
    table = open_table(f"{name}/lmf:{roots[name]}")
    row = table.frame.iloc[0]
    assert (row["text"].shape, row["audio"].shape, row["vision"].shape) == ((6, 300), (74,), (47,))
    assert np.isnan(whole[b"train"][b"covarep"][0, -1])
    assert row["audio"][-1] == 0
    assert row["label"] == whole[b"train"][b"label"][0, 0]


def test_errors(tmp_path):
    with pytest.raises(InputError, match=r"mosi_data.pkl: not there; put MulT's pickle there"):
        open_table(f"mosi:{tmp_path}")
    with pytest.raises(InputError, match="did you mean 'aligned'"):
        open_table(f"mosi,form=alinged:{tmp_path}")
    path = dump(tmp_path / "mosi_data.pkl", {"train": {}, "test": {}})
    with pytest.raises(InputError, match=r"mosi_data.pkl: no 'valid'"):
        open_table(f"mosi:{tmp_path}")
    held = {"text": [1], "audio": [1], "vision": [1], "labels": [1, 2]}
    dump(path, dict.fromkeys(("train", "valid", "test"), held))
    with pytest.raises(InputError, match="unequal length in 'train': text 1, audio 1, vision 1, labels 2"):
        open_table(f"mosi:{tmp_path}")
    dump(tmp_path / "mosi.pkl", {"x": 1})
    with pytest.raises(InputError, match="no key b'train'"):
        open_table(f"mosi/lmf:{tmp_path}")


def test_hostile_pickle(tmp_path):
    dump(tmp_path / "mosi_data.pkl", {"train": Runs(os.system, f"touch {tmp_path / 'ran'}")})
    with pytest.raises(InputError, match="do not trust this file"):
        open_table(f"mosi:{tmp_path}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("source", ["mosi/mult", "mosi/lmf", "mosei/mult"])
def test_through_the_command_line(roots, tmp_path, capsys, source):
    name = source.partition("/")[0]
    settings = small_sequences("text") if "lmf" in source else small_sequences("text", "audio", "vision")
    checked, found = check_fit_evaluate(capsys, f"{source}:{roots[name]}", tmp_path / "run", *settings)
    assert found["mae"] < 1.2  # of the mean 1.5
    assert checked["counts"][0]["here"] == 40
