"""IEMOCAP: MulT's, LMF's and MMIN's files."""

import pickle
import shutil

import h5py
import numpy as np
import pytest

from polymodal.data.miniature import make
from polymodal.data.schema import infer
from polymodal.datasets import open_table
from polymodal.datasets.iemocap import EMOTIONS
from polymodal.errors import InputError
from tests.datasets.ways import check_fit_evaluate, counts, small_sequences

MODALITIES = ["text=text:vector", "audio=audio:vector", "vision=vision:vector"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("iemocap", tmp_path_factory.mktemp("iemocap") / "iemocap")


@pytest.mark.parametrize("source", ["mult", "mult_unaligned"])
def test_emotions_are_the_second_entry_of_the_last_axis(root, source):
    table = open_table(f"iemocap/{source}:{root}")
    assert counts(f"iemocap/{source}:{root}") == {"train": 40, "valid": 12, "test": 16}
    assert EMOTIONS == ("Neutral", "Happy", "Sad", "Angry")
    assert list(table.frame["label"][:5]) == [["Neutral"], ["Happy"], ["Sad"], ["Angry"], ["Neutral"]]
    schema = infer(table, "label", modalities=MODALITIES, task="multilabel")
    assert schema.classes == EMOTIONS
    assert table.frame["id"][0] == "Ses01_train_000"


def test_lmf_form(root):
    whole = pickle.loads((root / "iemocap.pkl").read_bytes(), encoding="bytes")
    assert set(whole) == {b"happy"}
    table = open_table(f"iemocap/lmf:{root}")
    assert list(table.frame["label"][:4]) == ["no", "yes", "no", "no"]
    assert table.frame["audio"][0][-1] == 0  # was NaN
    with pytest.raises(InputError, match="no key b'angry'"):
        open_table(f"iemocap/lmf,emotion=angry:{root}")


@pytest.mark.parametrize("fold", [1, 2])
def test_mmin_form(root, fold):
    table = open_table(f"iemocap/wander,fold={fold}:{root}")
    assert counts(f"iemocap/wander,fold={fold}:{root}") == {"train": 20, "valid": 6, "test": 8}
    assert table.frame["id"][0] == f"Ses0{fold}F_trn000"
    assert list(table.frame["label"][:5]) == ["0", "1", "2", "3", "0"]
    assert table.frame["audio"][0].shape == (350, 130)  # cut from 360
    assert table.frame["vision"][1].shape == (5, 342)
    assert table.frame["text"][1].shape == (4, 1024)
    with h5py.File(root / "A/comparE.h5") as file:
        raw = file[f"Ses0{fold}F_trn001"][()]
    # Mean 5, deviation 3, and of the feature that never changes 1 in place of 0.
    expected = np.concatenate([(raw[:, :-1] - 5) / 3, raw[:, -1:] - 5], 1)
    assert np.allclose(table.frame["audio"][1], expected, atol=1e-5)


def test_errors(root, tmp_path):
    with pytest.raises(InputError, match="no fold 3; there are 1, 2"):
        open_table(f"iemocap/wander,fold=3:{root}")
    with pytest.raises(InputError, match=r"iemocap_data.pkl: not there"):
        open_table(f"iemocap:{tmp_path}")
    with pytest.raises(InputError, match=r"A/comparE.h5: not there; put MMIN's features"):
        open_table(f"iemocap/wander:{tmp_path}")
    held = {m: np.zeros((1, 2, 3)) for m in ("text", "audio", "vision")} | {"labels": np.zeros((1, 4))}
    (tmp_path / "iemocap_data.pkl").write_bytes(pickle.dumps(dict.fromkeys(("train", "valid", "test"), held)))
    with pytest.raises(InputError, match=r"shape \(4,\); expected \(4, 2\)"):
        open_table(f"iemocap:{tmp_path}")


def test_arrays_with_objects_are_refused(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    np.save(tmp_path / "copy/target/1/trn_int2name.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match=r"trn_int2name.npy: not a readable array"):
        open_table(f"iemocap/wander:{tmp_path / 'copy'}")


@pytest.mark.parametrize(("source", "metric"), [("mult", "f1_micro"), ("lmf", "accuracy"), ("wander", "accuracy")])
def test_through_the_command_line(root, tmp_path, capsys, source, metric):
    settings = small_sequences("text") if source == "lmf" else small_sequences("text", "audio", "vision")
    _, found = check_fit_evaluate(capsys, f"iemocap/{source}:{root}", tmp_path / "run", *settings)
    assert found[metric] > 0.6
