"""MM-IMDB in miniature: films of six genres, as folders, lists and features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.miniature.media import picture, sentence, write_jpeg

GENRES = ("Drama", "Comedy", "Action", "Horror", "Western", "Sci-Fi")
ALL = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror", "Documentary", "Mystery",
    "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music", "Animation", "Musical", "Western", "Sport",
    "Short", "Film-Noir",
)  # fmt: skip
SIZES = {"train": 32, "dev": 10, "test": 12}


def write(root: Path, random: np.random.Generator) -> None:
    """Posters, records and lists; of two plots the second is the longer.

    The first film of each part is News as well, the second of the test part has a genre that no training film has. In
    train.jsonl a poster is "image", in the other lists "img".
    """
    split: dict[str, list[str]] = {name: [] for name in SIZES}
    films: list[tuple[str, list[str]]] = []
    for part, size in SIZES.items():
        lines = []
        for i in range(size):
            film = f"{random.integers(10**6):07d}"
            first = i % len(GENRES)
            own = [first] if i % 3 else [first, (first + 2) % len(GENRES)]
            genres = [GENRES[n] for n in own] + (["News"] if i == 0 else [])
            genres += ["Adult"] if part == "test" and i == 1 else []
            poster = np.maximum.reduce([picture(n, random) for n in own])
            write_jpeg(root / "dataset" / f"{film}.jpeg", poster)
            plot = ". ".join(sentence(n, random, 8) for n in own)
            record = {"title": f"Film {film}", "plot": ["A film.", plot], "genres": genres, "year": 1990}
            (root / "dataset" / f"{film}.json").write_text(json.dumps(record))
            split[part].append(film)
            films.append((film, genres))
            image = "image" if part == "train" else "img"
            lines.append({"id": film, "label": genres, "text": plot, image: f"dataset/{film}.jpeg"})
        kept = [line for line in lines if not {"News", "Adult"} & set(line["label"])]
        (root / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    (root / "split.json").write_text(json.dumps(split))
    _features(root / "multimodal_imdb.hdf5", films, random)


def _features(path: Path, films: list[tuple[str, list[str]]], random: np.random.Generator) -> None:
    """The parts are consecutive ranges, which the attribute `split` tells as the library Fuel writes it."""
    import h5py

    hot = np.array([[name in genres for name in ALL] for _, genres in films], dtype=np.int32)
    kinds: Any = [("split", "S5"), ("source", "S12"), ("start", "i8"), ("stop", "i8")]
    lines, start = [], 0
    for part, size in SIZES.items():
        lines += [(part, source, start, start + size) for source in ("features", "vgg_features", "genres")]
        start += size
    with h5py.File(path, "w") as file:
        for name, width in (("features", 300), ("vgg_features", 4096)):
            signal = hot @ random.standard_normal((len(ALL), width)) + 0.5 * random.standard_normal((len(hot), width))
            file[name] = signal.astype(np.float32)
        file["genres"] = hot
        file["images"] = np.zeros((len(hot), 3, 4, 4), np.float32)
        file["sequences"] = np.zeros((len(hot), 5), np.int32)
        file["imdb_ids"] = np.array([film.encode() for film, _ in films])
        file.attrs["target_names"] = json.dumps(ALL)
        file.attrs["split"] = np.array([tuple(one) for one in lines], dtype=kinds)
