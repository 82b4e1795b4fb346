"""MSRVTT's seven experts: lists, captions, the ways in which an expert is missing, times, and training to retrieve."""

import pickle

import h5py
import numpy as np
import pandas as pd
import pytest

from polymodal import Predictor
from polymodal.config import load_config
from polymodal.data.miniature import make
from polymodal.data.miniature.msrvtt import EXPERTS
from polymodal.data.schema import Modality
from polymodal.datasets import open_table, with_preset
from polymodal.datasets.msrvtt import sentence
from polymodal.errors import InputError
from tests.cli.run import answer, fails, metrics, polymodal
from tests.datasets.ways import check_fit_evaluate, counts

SMALL = [
    *(f"encoders.{m}.dim=16" for m in EXPERTS), "fusion.depth=1", "fusion.heads=2", "fusion.hidden=32", "optimizer.lr=0.005",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("msrvtt", tmp_path_factory.mktemp("msrvtt") / "msrvtt")


@pytest.fixture(scope="module")
def table(root):
    return open_table(f"msrvtt/full:{root}").frame


def file_of(root, video):
    return root / "vid_feat_files" / "mult_h5" / video[0] / video[1] / video[2] / f"{video}.h5"


# Lists and captions ---------------------------------------------------------------------------------------------------


def test_splits(root):
    # One video of the training part has two captions, the others three.
    assert counts(f"msrvtt:{root}") == {"train": 95, "test": 12}
    assert counts(f"msrvtt/miech:{root}") == {"train": 77, "test": 12}
    assert counts(f"msrvtt/full:{root}") == {"train": 77, "valid": 18, "test": 36}
    assert counts(f"msrvtt,captions=first:{root}") == {"train": 32, "test": 12}


def test_check_reads_the_vectors_of_a_video_once(root, monkeypatch):
    from polymodal.data import facts

    read = []

    def vector(cell, folder):
        read.append(id(cell))
        return facts._Fact(b"same")

    monkeypatch.setattr(facts, "_vector", vector)
    table = open_table(f"msrvtt/full:{root}")
    found = facts.facts_of(table, {"rgb": Modality("rgb", ("rgb",), "vector")}, workers=0, show=False)
    there = sum(found["rgb"].there)
    assert (
        len(read) == len(set(read)) == len({row.video for row in table.frame.dropna(subset="rgb").itertuples()}) < there
    )


def test_the_test_caption_is_the_one_of_the_list(root):
    chosen = pickle.loads((root / "symlinked-feats" / "jsfusion_val_caption_idx.pkl").read_bytes())
    one, other = (open_table(f"msrvtt/{split}:{root}").frame for split in ("jsfusion", "miech"))
    for frame, number in ((one, chosen), (other, dict.fromkeys(chosen, 0))):
        for row in frame[frame["split"] == "test"].itertuples():
            with h5py.File(file_of(root, row.video)) as file:
                words = file[f"raw_captions.{number[row.video]}"][()]
            assert row.id == f"{row.video}_{number[row.video]}"
            assert row.caption == sentence(" ".join(word.decode() for word in words))
    assert any(number > 0 for number in chosen.values())


def test_captions_are_sentences(table):
    assert all(text[0].isupper() and text[-1] in ".?" for text in table["caption"])
    assert sum(text.endswith("?") for text in table["caption"]) == 1
    assert sentence("the BBC news") == "The bbc news."


def test_lists_beside_the_features(root, tmp_path):
    (tmp_path / "vid_feat_files").symlink_to(root / "vid_feat_files")
    for file in (root / "symlinked-feats").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pd.testing.assert_frame_equal(open_table(f"msrvtt:{tmp_path}").frame, open_table(f"msrvtt:{root}").frame)


# Experts --------------------------------------------------------------------------------------------------------------


def test_an_expert_is_missing_in_three_ways(root, table):
    ways = dict.fromkeys(("no set", "empty", "not a number"), 0)
    for video in table["video"].unique():
        row = table[table["video"] == video].iloc[0]
        with h5py.File(file_of(root, video)) as file:
            for m, width in EXPERTS.items():
                name = f"features.{m}"
                way = (
                    "no set" if name not in file
                    else "empty" if not len(file[name])
                    else "not a number" if np.isnan(file[name][0, 0])
                    else ""
                )  # fmt: skip
                assert (row[m] is None) == bool(way), (video, m)
                if way:
                    ways[way] += 1
                else:
                    assert row[m].shape == (len(file[name]), 1 + width)
                    np.testing.assert_array_equal(row[m][:, 1:], file[name][()])
    assert all(ways.values())


def test_times_are_means_of_start_and_end_or_what_one_vector_stands_for(root, table):
    for row in table.iloc[::7].itertuples():
        with h5py.File(file_of(root, row.video)) as file:
            known = file["features_t.s3d"][()].mean(1)
        assert row.s3d[:-1, 0].tolist() == known.tolist()  # fewer times than vectors
        assert row.s3d[-1, 0] == -1
        np.testing.assert_allclose(row.rgb[:, 0], 0.2 * (np.arange(len(row.rgb)) + 0.5), rtol=1e-6)
        np.testing.assert_allclose(row.scene[:, 0], np.arange(len(row.scene)) + 0.5)
        assert row.speech is None or (row.speech[:, 0] == -1).all()  # times that are no numbers


def test_fewer_vectors(root, table):
    few = open_table(f"msrvtt/full,vectors=2:{root}").frame
    for one, whole in zip(few["rgb"], table["rgb"], strict=True):
        assert len(one) == 2
        places = [int(0.5 * len(whole) / 2), int(1.5 * len(whole) / 2)]
        np.testing.assert_array_equal(one, whole[places])


# Bad input ------------------------------------------------------------------------------------------------------------


def test_errors(tmp_path):
    with pytest.raises(InputError, match=r"train_list_jsfusion.txt: not there; put the list there"):
        open_table(f"msrvtt:{tmp_path}")
    with pytest.raises(InputError, match="did you mean 'jsfusion'"):
        open_table(f"msrvtt,split=jsfussion:{tmp_path}")
    root = make("msrvtt", tmp_path / "own")
    with pytest.raises(InputError, match="vectors=0; it is 1 or more"):
        open_table(f"msrvtt,vectors=0:{root}")
    train = (root / "symlinked-feats" / "train_list.txt").read_text().split()
    chosen = root / "symlinked-feats" / "jsfusion_val_caption_idx.pkl"
    whole = chosen.read_bytes()
    first, *rest = pickle.loads(whole)
    chosen.write_bytes(pickle.dumps({first: 7} | dict.fromkeys(rest, 0)))
    with pytest.raises(InputError, match=f"caption 7 of 3 for the test video '{first}'"):
        open_table(f"msrvtt:{root}")
    chosen.write_bytes(pickle.dumps(dict.fromkeys(rest, 0)))
    with pytest.raises(InputError, match=f"no caption for the test video '{first}'"):
        open_table(f"msrvtt:{root}")
    chosen.write_bytes(whole)
    with h5py.File(file_of(root, train[0]), "r+") as file:
        del file["features.rgb"]
        file["features.rgb"] = np.zeros((3, 5))
    with pytest.raises(InputError, match=r"features.rgb have the shape \(3, 5\); expected \(n, 2048\)"):
        open_table(f"msrvtt:{root}")
    with h5py.File(file_of(root, train[0]), "r+") as file:
        for i in range(3):
            del file[f"raw_captions.{i}"]
        del file["features.rgb"]
    with pytest.raises(InputError, match=r"no captions \(raw_captions.0, ...\)"):
        open_table(f"msrvtt:{root}")
    file_of(root, train[0]).write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a readable HDF5 file"):
        open_table(f"msrvtt:{root}")
    file_of(root, train[0]).unlink()
    with pytest.raises(InputError, match=f"{train[0]}.h5: not there, and so are 0 other videos"):
        open_table(f"msrvtt:{root}")


# Training -------------------------------------------------------------------------------------------------------------


def test_through_the_command_line(root, tmp_path, capsys):
    checked, found = check_fit_evaluate(
        capsys, f"msrvtt:{root}", tmp_path / "run", *SMALL, "train.batch_size=32", "train.epochs=8"
    )
    assert {one["what"]: one["here"] for one in checked["counts"]} == {"video": 44, "test": 12}
    ways = [f"{name}_{way}" for name in ("r_at_1", "r_at_5", "r_at_10", "mdr", "mnr") for way in ("q2g", "g2q")]
    assert set(ways) | {"rsum", "loss"} == set(metrics(tmp_path / "run")["test"])
    assert min(found["r_at_5_q2g"], found["r_at_5_g2q"]) >= 65  # by chance 42
    assert (tmp_path / "run" / "report.html").is_file()
    ranks = pd.read_csv(tmp_path / "run" / "predictions" / "test.csv")
    assert (ranks["rank"] <= 10).mean() * 100 == pytest.approx(found["r_at_10_q2g"])
    right = ranks["prediction"] == ranks["item"]
    assert ((ranks["rank"] == 1) == right).all()
    lacking = answer(capsys, "evaluate", tmp_path / "run", "--drop", "speech", "--drop", "ocr")
    assert 0 < lacking["rsum"] <= 600
    assert "row 0 of the batch lacks its query" in fails(capsys, "evaluate", tmp_path / "run", "--drop", "caption")
    assert "no modality predicts alone" in fails(capsys, "diagnose", tmp_path / "run")
    out = tmp_path / "found.csv"
    polymodal("predict", tmp_path / "run", f"msrvtt/full:{root}", "--out", out)
    assert list(pd.read_csv(out).columns) == ["id", "item", "prediction", "similarity", "similarity_of_item", "rank"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"fusion": "concat"}, "retrieval needs pairs of embeddings: --fusion moee"),
        ({"balancer": "mlb"}, "in retrieval none predicts alone; use --balancer joint"),
        ({"recipe": "ume"}, "of retrieval there are the recipes joint, wander, adapter"),
        ({"fusion": {"name": "mmt", "query": "text"}}, "query='text'; name the modality that asks"),
        ({"encoders": {"rgb": {"name": "expert", "dim": 32, "timed": True}}}, "the experts' widths .* differ"),
        ({"train": {"modality_dropout": 0.2}}, "would take queries away"),
        ({"data": {"modalities": ["caption=caption:text"]}}, r"no gallery beside \['caption'\]"),
        ({"data": {"task": "regression"}, "label": "place"}, "is for retrieval: --task retrieval"),
    ],
)
def test_settings_that_do_not_go_together(root, table, settings, expected):
    values = with_preset(
        {"table": f"msrvtt/full:{root}", **settings, "train": {"epochs": 1, **settings.get("train", {})}}
    )
    table = table.assign(place=np.arange(len(table)) + 0.5)
    with pytest.raises(InputError, match=expected):
        Predictor(config=load_config(values | {"table": None}), show=False).fit(table)
