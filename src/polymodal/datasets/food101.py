"""UPMC Food101 (Wang et al. 2015): pictures of recipes found on the web, with the titles of their pages."""

from __future__ import annotations

import csv
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polymodal.data.table import Table
from polymodal.datasets.base import (
    AUGMENTED,
    FRAMES,
    MMBT,
    OPENCLIP,
    Dataset,
    Preset,
    hold_out,
    make_table,
    need,
    one_of,
)
from polymodal.datasets.records import cell, read_records, words
from polymodal.errors import InputError

__all__ = ["DATASET", "read"]

FORMS = ("folders", "jsonl", "json")
PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


def read(root: str | Path, *, form: str = "folders", clean: bool = True, valid: float = 0.0, seed: int = 0) -> Table:
    """Pictures with their text and class; those without a text are left out and counted.

    Columns: id, image, text, label, split. Classes are sorted by name.

    Args:
        root: folder of the owner's copy, or of the lists made from it.
        form: "folders" (`images/{train,test}/<class>/<class>_<n>.jpg` with `texts/{train,test}_titles.csv`, or without these
            with `texts_txt/<class>/<class>_<n>.txt`), "jsonl" (MMBT's `{train,dev,test}.jsonl` with id, label, text, img) or
            "json" (`{train,dev,test}.json`, a list each, with id, label, text_tokens, img_path, as Wander's author writes them).
        clean: lower-case texts and put blanks for punctuation, as MMBT does ("folders" only).
        valid: share of the training pictures that is set aside for validation, alike in every class ("folders" only).
        seed: of that choice.

    Raises:
        InputError: a file is missing or damaged, or an argument is unknown.

    *Differs from the authors' code:* MMBT draws its 5000 pictures for validation without a seed; Wander's author reads the test
    list where the validation list is meant.
    """
    root = Path(root)
    one_of(form, FORMS, "form of food101")
    if not 0 <= valid < 1:
        raise InputError(f"food101: valid={valid}: expected a share of the training pictures, from 0 up to 1")
    found = _folders(root, clean) if form == "folders" else _records(root, form)
    rows = [row for row in found if row["text"].strip()]
    silent = len(found) - len(rows)
    notes = [f"left out: {silent} pictures without a text"] if silent else []
    if valid and form == "folders":
        train = [row for row in rows if row["split"] == "train"]
        for place in hold_out([row["label"] for row in train], valid, seed):
            train[place]["split"] = "valid"
    return make_table(rows, root, "food101", {"label": sorted({row["label"] for row in rows})}, notes)


def _records(root: Path, form: str) -> list[dict[str, Any]]:
    rows = []
    for part, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        path = need(root, f"{name}.{form}", "the list made from the owner's copy", "food101")
        for place, record in read_records(path):
            text = words(record, "text_tokens", place) if form == "json" else str(cell(record, ("text",), place) or "")
            rows.append(
                {
                    "id": str(cell(record, ("id",), place)),
                    "image": str(cell(record, ("img_path",) if form == "json" else ("img", "image"), place)),
                    "text": text,
                    "label": str(cell(record, ("label",), place)),
                    "split": part,
                }
            )
    return rows


def _folders(root: Path, clean: bool) -> list[dict[str, Any]]:
    rows = []
    for part in ("train", "test"):
        folder = need(root, f"images/{part}", "the pictures <class>/<class>_<n>.jpg", "food101")
        texts = _texts(root, part)
        for path in sorted(folder.glob("*/*.jpg")):
            text = texts.get(path.stem, "")
            if clean:
                text = re.sub(r"\s+", " ", text.lower().translate(PUNCTUATION)).strip()
            image = str(path.relative_to(root))
            rows.append({"id": path.stem, "image": image, "text": text, "label": path.parent.name, "split": part})
            texts.pop(path.stem, None)
        for stem in texts if (root / "texts" / f"{part}_titles.csv").is_file() else ():
            # A title whose picture is not there: the row stays, so that the picture is reported as missing.
            label = re.sub(r"_\d+$", "", stem)
            image = f"images/{part}/{label}/{stem}.jpg"
            rows.append({"id": stem, "image": image, "text": texts[stem], "label": label, "split": part})
    return rows


def _texts(root: Path, part: str) -> dict[str, str]:
    """Text of each picture by its name without ".jpg"."""
    titles = root / "texts" / f"{part}_titles.csv"
    if titles.is_file():
        return dict(_titles(titles))
    if not (root / "texts_txt").is_dir():
        raise InputError(
            f"{titles}: not there, nor the folder {root / 'texts_txt'}; put the titles or the texts of each recipe there, as "
            "`polymodal data fetch-help food101` tells in full"
        )
    return {one.stem: one.read_text(encoding="utf-8", errors="replace") for one in (root / "texts_txt").glob("*/*.txt")}


def _titles(path: Path) -> Iterator[tuple[str, str]]:
    """Lines `<class>_<n>.jpg,title,class`: titles hold commas and quotes; a header is passed over."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, cells in enumerate(csv.reader(file), 1):
            if not cells or (number == 1 and not cells[0].lower().endswith(".jpg")):
                continue
            if len(cells) < 3 or not cells[0].lower().endswith(".jpg"):
                raise InputError(f"{path}, line {number}: {','.join(cells)[:80]!r}: expected IMAGE.jpg,TITLE,CLASS")
            yield cells[0][:-4], ",".join(cells[1:-1])  # a title with commas outside quotes is cut into several cells


MODALITIES = {"modalities": ["image=image:image", "text=text:text"]}
DISTORTED = {"augment": "flip", "distort": 0.5, "blur": 21}
"""Of training pictures, as the loader of Wander's author for these lists has it (github.com/zrguo/CGGM)."""
COUNTS = {"train + valid": 67972, "test": 22716, "classes": 101}

DATASET = Dataset(
    read,
    {
        "mmlora": Preset(
            "the owner's folders without what has no text (MMLoRA states no validation part; a share of the training pictures is "
            "taken); OpenCLIP's normalisation, pictures cut and mirrored at random in training",
            {"label": "label", "data": MODALITIES | {"inputs": {"image": FRAMES | OPENCLIP | AUGMENTED}}},
            published=COUNTS,
        ),
        "mmbt": Preset(
            "MMBT's lists train.jsonl, dev.jsonl and test.jsonl; 5000 pictures for validation; the middle 224 of pictures whose "
            "shorter side is scaled to 256",
            {"label": "label", "data": MODALITIES | {"inputs": {"image": MMBT}}},
            {"form": "jsonl"},
            COUNTS | {"valid": 5000},
        ),
        "wander": Preset(
            "train.json, dev.json and test.json as Wander's author writes them, resized to 224 without normalisation; in "
            "training mirrored, other colours, blurred",
            {
                "label": "label",
                "data": MODALITIES | {"inputs": {"image": FRAMES | DISTORTED | {"standardize": False}}},
            },
            {"form": "json"},
            {"classes": 101},
        ),
    },
    help="""\
UPMC Food101: about 90,700 pictures of 101 dishes with texts from the web (Wang et al. 2015).

Owner: https://visiir.isir.upmc.fr (from general knowledge; copies are on Kaggle as "UPMC Food-101").
Put into one folder ROOT:
  images/{train,test}/<class>/<class>_<n>.jpg
  texts/{train,test}_titles.csv             IMAGE.jpg,TITLE,CLASS (the columns are from general knowledge), or
  texts_txt/<class>/<class>_<n>.txt         the text of each recipe
or, for food101/mmbt, {train,dev,test}.jsonl, for food101/wander {train,dev,test}.json, and the pictures that they name.
Terms (from general knowledge; read the owner's own): for research; texts and pictures belong to the pages they are from.
""",
)
