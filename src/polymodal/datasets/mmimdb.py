"""MM-IMDB (Arevalo et al. 2017): posters and plots of films, each with several of 23 genres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymodal.data.table import Table, nearest
from polymodal.datasets.base import AUGMENTED, FRAMES, MMBT, OPENCLIP, Dataset, Preset, make_table, need, one_of
from polymodal.datasets.records import cell, read_json, read_records
from polymodal.errors import InputError

__all__ = ["DATASET", "GENRES", "read"]

GENRES = (
    "Action", "Adventure", "Animation", "Biography", "Comedy", "Crime", "Documentary", "Drama", "Family", "Fantasy", "Film-Noir",
    "History", "Horror", "Music", "Musical", "Mystery", "Romance", "Sci-Fi", "Short", "Sport", "Thriller", "War", "Western",
)  # fmt: skip
PARTS = (("train", "train"), ("valid", "dev"), ("test", "test"))
SIZES = {"train": 15552, "valid": 2608, "test": 7799}


def read(root: str | Path, *, form: str = "folders", films: str = "all") -> Table:
    """Films with their genres, a list each.

    Columns: id, image, text, genres, split; of "hdf5" id, image (4096 features of VGG), text (features), genres, split. Classes
    are sorted by name, those of "hdf5" in the order of its `target_names`.

    Args:
        root: folder of the owner's copy, or of the lists made from it.
        form: "folders" (`dataset/<id>.json` and `.jpeg`, `split.json`; also inside a folder `mmimdb`; of several plots the
            longest is the text), "jsonl" (`{train,dev,test}.jsonl` with id, label, text and image or img) or "hdf5"
            (`multimodal_imdb.hdf5`).
        films: "all" keeps each film with those of its genres that are among the 23; "mmbt" drops every film with the genre
            News, and films of other parts with a genre that the training part lacks.

    Raises:
        InputError: a file is missing or damaged, or an argument is unknown.

    Source: Arevalo et al. 2017; Kiela et al. 2019 (jsonl, films="mmbt").
    *Differs from the authors' code:* MMBT's converter writes the key "image" and its loader reads "img"; either is read here.
    """
    root = Path(root)
    one_of(form, ("folders", "jsonl", "hdf5"), "form of mmimdb")
    one_of(films, ("all", "mmbt"), "films of mmimdb")
    if form == "hdf5":
        from polymodal.datasets.mmimdb_hdf5 import read_hdf5

        rows, classes = read_hdf5(need(root, "multimodal_imdb.hdf5", "the owner's file of features", "mmimdb"), SIZES)
        return make_table(rows, root, "mmimdb", {"genres": classes})
    rows = _folders(root) if form == "folders" else _jsonl(root)
    notes: list[str] = []
    if films == "mmbt":
        rows, classes = _as_mmbt(rows, notes)
    else:
        rows, classes = _with_known_genres(rows, notes), list(GENRES)
    return make_table(rows, root, "mmimdb", {"genres": classes}, notes)


def _folders(root: Path) -> list[dict[str, Any]]:
    if not (root / "split.json").exists() and (root / "mmimdb").is_dir():
        root, inside = root / "mmimdb", "mmimdb/"
    else:
        inside = ""
    path = need(root, "split.json", "the owner's lists of films", "mmimdb")
    split = read_json(path)
    rows = []
    for part, name in PARTS:
        if not isinstance(split, dict) or not isinstance(split.get(name), list):
            raise InputError(f"{path}: no list {name!r}; expected train, dev and test")
        for film in split[name]:
            file = need(root, f"dataset/{film}.json", "the owner's record of that film", "mmimdb")
            record = read_json(file)
            plots = cell(record, ("plot",), str(file))
            text = max(plots, key=len) if isinstance(plots, list) and plots else str(plots or "")
            genres = cell(record, ("genres",), str(file))
            image = f"{inside}dataset/{film}.jpeg"
            rows.append({"id": str(film), "image": image, "text": text, "genres": genres, "split": part})
    return rows


def _jsonl(root: Path) -> list[dict[str, Any]]:
    rows = []
    for part, name in PARTS:
        for place, record in read_records(need(root, f"{name}.jsonl", "MMBT's list", "mmimdb")):
            genres = cell(record, ("label",), place)
            rows.append(
                {
                    "id": str(cell(record, ("id",), place)),
                    "image": str(cell(record, ("img", "image"), place)),
                    "text": str(cell(record, ("text",), place)),
                    "genres": genres if isinstance(genres, list) else [genres],
                    "split": part,
                }
            )
    return rows


def _with_known_genres(rows: list[dict[str, Any]], notes: list[str]) -> list[dict[str, Any]]:
    unknown: dict[str, int] = {}
    for row in rows:
        for name in row["genres"]:
            if name not in GENRES:
                if close := nearest(name, GENRES).partition(" (")[0]:
                    raise InputError(f"mmimdb: film {row['id']}: unknown genre {name!r}{close}")
                unknown[name] = unknown.get(name, 0) + 1
        row["genres"] = [name for name in row["genres"] if name in GENRES]
    if unknown:
        shown = ", ".join(f"{name} {count}" for name, count in sorted(unknown.items()))
        notes.append(f"left out: genres outside of the 23 ({shown})")
    kept = [row for row in rows if row["genres"]]
    if len(kept) < len(rows):
        notes.append(f"left out: {len(rows) - len(kept)} films with none of the 23 genres")
    return kept


def _as_mmbt(rows: list[dict[str, Any]], notes: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    quiet = [row for row in rows if "News" not in row["genres"]]
    classes = sorted({name for row in quiet if row["split"] == "train" for name in row["genres"]})
    kept = [row for row in quiet if set(row["genres"]) <= set(classes)]
    if len(quiet) < len(rows):
        notes.append(f"left out: {len(rows) - len(quiet)} films with the genre News, as MMBT does")
    if len(kept) < len(quiet):
        notes.append(f"left out: {len(quiet) - len(kept)} films with a genre that the training part lacks")
    return kept, classes


BASE = {"modalities": ["image=image:image", "text=text:text"], "task": "multilabel"}
COUNTS = {"train": 15552, "valid": 2608, "test": 7799, "classes": 23}

DATASET = Dataset(
    read,
    {
        "mmlora": Preset(
            "the owner's folders and lists; OpenCLIP's normalisation, posters cut and mirrored at random in training",
            {"label": "genres", "data": BASE | {"inputs": {"image": FRAMES | OPENCLIP | AUGMENTED}}},
            published=COUNTS,
        ),
        "mmbt": Preset(
            "the owner's folders without the films that MMBT drops (so that its counts are lower than those published); the "
            "middle 224 of posters whose shorter side is scaled to 256",
            {"label": "genres", "data": BASE | {"inputs": {"image": MMBT}}},
            {"films": "mmbt"},
            COUNTS,
        ),
        "mmbt_jsonl": Preset(
            "MMBT's lists train.jsonl, dev.jsonl and test.jsonl, pictures as in mmimdb/mmbt",
            {"label": "genres", "data": BASE | {"inputs": {"image": MMBT}}},
            {"form": "jsonl"},
            COUNTS,
        ),
        "gmu": Preset(
            "the owner's file of features: 4096 of VGG a poster, and those of the plot",
            {
                "label": "genres",
                "data": {"modalities": ["image=image:vector", "text=text:vector"], "task": "multilabel", "inputs": {}},
            },
            {"form": "hdf5"},
            COUNTS,
        ),
    },
    help="""\
MM-IMDB: 25,959 films with poster, plot and 23 genres (Arevalo et al. 2017).

Owner: http://lisi1.unal.edu.co/mmimdb (from general knowledge; a copy is at archive.org): mmimdb.tar.gz and
multimodal_imdb.hdf5.
Put into one folder ROOT:
  split.json, dataset/<imdb id>.json, dataset/<imdb id>.jpeg     for mmimdb/mmlora and mmimdb/mmbt (as mmimdb.tar.gz has them)
  {train,dev,test}.jsonl and the pictures that they name         for mmimdb/mmbt_jsonl
  multimodal_imdb.hdf5                                           for mmimdb/gmu
`polymodal data unpack mmimdb.tar.gz ROOT` unpacks an archive and refuses members that climb out of the folder.
Terms (from general knowledge; read the owner's own): for research; plots and posters are those of IMDb.
""",
)
