"""UPMC Food101 in miniature: five dishes, as folders and as both kinds of lists."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from polymodal.data.miniature.media import picture, sentence, write_jpeg

CLASSES = ("apple_pie", "beignets", "hot_and_sour_soup", "sushi", "waffles")
SIZES = {"train": 8, "test": 3}


def write(root: Path, random: np.random.Generator) -> None:
    """Pictures, titles with commas, quotes and capitals, texts of each recipe, and the lists made from them.

    One picture of each part has an empty title, and one has none.
    """
    (root / "texts").mkdir(parents=True)
    samples = []
    for part, size in SIZES.items():
        titles = []
        for number, label in enumerate(CLASSES):
            for n in random.permutation(50)[:size]:
                name = f"{label}_{n}"
                write_jpeg(root / "images" / part / label / f"{name}.jpg", picture(number, random))
                text = f'{sentence(number, random).capitalize()}, the "best"!'
                samples.append((part, label, name, text))
                titles.append([f"{name}.jpg", text, label])
        titles[0][1] = ""
        del titles[1]
        with (root / "texts" / f"{part}_titles.csv").open("w", newline="") as file:
            csv.writer(file).writerows(titles)
    for _, label, name, text in samples:
        (root / "texts_txt" / label).mkdir(parents=True, exist_ok=True)
        (root / "texts_txt" / label / f"{name}.txt").write_text(f"{text}\n")
    _lists(root, samples)


def _lists(root: Path, samples: list[tuple[str, str, str, str]]) -> None:
    parts: dict[str, list[tuple[str, str, str, str]]] = {"train": [], "dev": [], "test": []}
    for i, sample in enumerate(samples):
        parts["test" if sample[0] == "test" else "dev" if i % 4 == 0 else "train"].append(sample)
    for name, chosen in parts.items():
        images = [f"images/{part}/{label}/{stem}.jpg" for part, label, stem, _ in chosen]
        lines = [
            {"id": stem, "label": label, "text": text.lower(), "img": image}
            for (_, label, stem, text), image in zip(chosen, images, strict=True)
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        records = [
            {"id": stem, "label": label, "text_tokens": _pieces(text), "img_path": image}
            for (_, label, stem, text), image in zip(chosen, images, strict=True)
        ]
        (root / f"{name}.json").write_text(json.dumps(records))


def _pieces(text: str) -> list[str]:
    """Words cut as a tokenizer of word pieces does: those of more than five letters in two."""
    words = [word.strip('.,!"') for word in text.lower().split()]
    return [piece for word in words for piece in ([word] if len(word) < 6 else [word[:5], f"##{word[5:]}"])]
