"""What frozen encoders yield, computed once a sample and kept as safetensors shards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polymodal.blocks import evaluating
from polymodal.distributed import rank, wait, world_size
from polymodal.errors import InputError
from polymodal.progress import Progress
from polymodal.run import write_atomically
from polymodal.types import Features, move

__all__ = ["FeatureCache", "FeatureColumn", "Storable", "fingerprint"]

Places = NDArray[np.int64]


class Storable(Protocol):
    """A loader whose samples can be told apart: `data.loader.Loader` and `data.synthetic.ArrayLoader`."""

    def sample_keys(self, modality: str) -> tuple[list[str], bool]:
        """What tells each sample's input from any other, preprocessing included; and whether it is drawn at random."""

    def raw(self, modality: str, places: Places, draw: int = 0) -> Any:
        """Inputs of the samples at `places` for the encoder; of an input that is drawn at random its draw of that number."""

    def replaced(self, columns: Mapping[str, FeatureColumn]) -> Self:
        """The same loader with features in the place of the inputs of some modalities."""


def fingerprint(module: nn.Module) -> str:
    """Hexadecimal digest of a module's structure and of every bit of its parameters and buffers.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> _ = layer.weight.data.neg_()
        >>> before == fingerprint(layer)
        False
    """
    digest = hashlib.sha256(f"{type(module).__qualname__} {module!r}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureColumn:
    """Features of every sample of a loader, in the place of the column that they were made from.

    With K stored draws of a random input, sample i of epoch e gets draw (e + i) mod K.

    Args:
        features: pooled (K N, D), and where they were asked for tokens (K N, L, D) with their mask (K N, L).
        draws: K.
        present: (N,) bool, which samples have the modality.
    """

    def __init__(self, features: Features, draws: int, present: Tensor) -> None:
        whole = features.mask is not None and bool(
            features.mask.all()
        )  # nothing is padded: masks would cost for nothing
        self.features = features._replace(mask=None) if whole else features
        self.draws, self.present = draws, present
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.features.pooled) // self.draws

    def __getitem__(self, places: Tensor) -> Features:
        index = (places + self.epoch) % self.draws * len(self) + places
        pooled, tokens, mask, _ = self.features
        if tokens is None or mask is None:
            return Features(pooled[index], None if tokens is None else tokens[index])
        mask = mask[index]
        longest = max(1, int(mask.sum(1).max()))
        return Features(pooled[index], tokens[index, :longest], mask[:, :longest])

    def batch(self, places: Places) -> Features:
        """Features of the samples at `places`."""
        return self[torch.from_numpy(places)]

    def freeze(self) -> bool:
        """Nothing is left to decode."""
        return True


class _Place(NamedTuple):
    shard: Path | dict[str, Tensor]
    row: int


class FeatureCache:
    """Runs each frozen encoder once a sample, and finds the result again by weights, preprocessing and sample.

    Features lie in safetensors files of `shard` samples each, in one folder a fingerprint; any number of processes may fill
    it together. A shard that cannot be read is made again. Without a folder they live as long as this object.

    Args:
        folder: where shards are kept; it may be shared by runs.
        tokens: keep token features too, not the pooled ones alone.
        draws: K stored draws of each sample of an input that is drawn at random; without, such an input is refused.
        shard: samples a file.
        batch_size: samples an encoder sees at a time.
        show: force the progress bar on or off.

    Raises:
        InputError: `draws`, `shard` or `batch_size` below 1.

    Example:
        >>> from polymodal.data.synthetic import D1A, ArrayLoader, d1
        >>> from polymodal.encoders import MLP
        >>> loader = ArrayLoader(d1(**D1A, seed=0), 32)
        >>> cached = FeatureCache().loader(loader, {"x1": MLP(8, dim=4)})
        >>> batch = next(iter(cached))
        >>> batch.inputs["x1"].pooled.shape, batch.inputs["x2"].shape
        (torch.Size([32, 4]), torch.Size([32, 16]))
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        tokens: bool = False,
        draws: int | None = None,
        shard: int = 256,
        batch_size: int = 64,
        show: bool | None = None,
    ) -> None:
        if min(draws or 1, shard, batch_size) < 1:
            raise InputError(f"feature cache: draws={draws}, shard={shard}, batch_size={batch_size}; each is 1 or more")
        self.folder = None if folder is None else Path(folder)
        self.tokens, self.draws, self.shard, self.batch_size, self.show = tokens, draws, shard, batch_size, show
        self._memory: dict[str, dict[str, _Place]] = {}
        self._seen: set[Path] = set()
        self.computed = 0
        """Samples that an encoder was run on, for whoever wants to know what the cache saved."""

    def loader(self, loader: Any, encoders: Mapping[str, nn.Module]) -> Any:
        """The same loader whose batches hold `Features` of these modalities instead of their inputs.

        Args:
            loader: one of the library's (`Storable`).
            encoders: frozen encoder of each modality; run in eval mode, without gradients, on its own device.

        Raises:
            InputError: a loader that cannot name its samples, or an input drawn at random without `draws`.
        """
        if not all(hasattr(loader, name) for name in ("sample_keys", "raw", "replaced")):
            raise InputError(
                f"features of {list(encoders)} cannot be kept: {type(loader).__name__} does not tell its samples apart; use "
                "polymodal's Loader or ArrayLoader"
            )
        return loader.replaced({m: self._column(loader, m, encoder) for m, encoder in encoders.items()})

    def _column(self, loader: Storable, modality: str, encoder: nn.Module) -> FeatureColumn:
        keys, random = loader.sample_keys(modality)
        if random and self.draws is None:
            raise InputError(
                f"modality {modality!r} is augmented at random, so that features computed once would freeze one draw; turn "
                "augmentation off, or store several draws (draws=K)"
            )
        draws = self.draws or 1 if random else 1
        wanted = [f"{key}#{k}" for k in range(draws) for key in keys]
        group = hashlib.sha256(f"{fingerprint(encoder)} {'tokens' if self.tokens else ''}".encode()).hexdigest()[:24]
        where = {key: divmod(i, len(keys)) for i, key in reversed(list(enumerate(wanted)))}
        known = self._memory.setdefault(group, {})
        self._look(group, known)
        missing = [key for key in where if key not in known]
        with (
            evaluating(encoder),
            Progress(f"features of {modality}", len(missing), show=self.show and rank() == 0) as bar,
        ):
            for chunk in _rotated([missing[i : i + self.shard] for i in range(0, len(missing), self.shard)]):
                self._look(group, known)  # what another process has made meanwhile
                if todo := [key for key in chunk if key not in known]:
                    self._keep(
                        group, known, todo, self._encode([where[key] for key in todo], loader, modality, encoder)
                    )
                bar.advance(len(chunk))
        wait()
        present = getattr(getattr(loader, "samples", None), "columns", {}).get(modality)
        there = torch.ones(len(keys), dtype=torch.bool) if present is None else present.present
        return FeatureColumn(_gather([known[key] for key in wanted]), draws, there)

    def _look(self, group: str, known: dict[str, _Place]) -> None:
        """Learn from the folder where samples' features lie."""
        if self.folder is None:
            return
        for path in sorted((self.folder / group).glob("*.safetensors")):
            if path not in self._seen and (keys := _keys_of(path)) is not None:
                self._seen.add(path)
                known.update({key: _Place(path, row) for row, key in enumerate(keys)})

    def _keep(self, group: str, known: dict[str, _Place], keys: Sequence[str], tensors: dict[str, Tensor]) -> None:
        shard: Path | dict[str, Tensor] = tensors
        if self.folder is not None:
            name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:24]
            shard = self.folder / group / f"{name}.safetensors"
            _save(shard, tensors, keys)
            self._seen.add(shard)
        known.update({key: _Place(shard, row) for row, key in enumerate(keys)})

    @torch.no_grad()
    def _encode(
        self, places: Sequence[tuple[int, int]], loader: Storable, modality: str, encoder: nn.Module
    ) -> dict[str, Tensor]:
        """Features of the samples at (draw, place) each."""
        device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
        found: list[Features] = []
        for draw, chunk in _batches(places, self.batch_size):
            x = move(loader.raw(modality, chunk, draw), device)
            one: Features = encoder(x)
            if self.tokens and one.tokens is None:
                raise InputError(f"modality {modality!r}: {type(encoder).__name__} yields no token features to keep")
            found.append(move(one if self.tokens else Features(one.pooled), "cpu"))
        self.computed += len(places)
        tensors = {"pooled": torch.cat([one.pooled for one in found])}
        if self.tokens:
            tensors |= _padded([(cast(Tensor, one.tokens), one.mask) for one in found])
        return tensors


def _batches(places: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, Places]]:
    """(draw, places) of at most `size` neighbours of one draw each."""
    for draw, group in groupby(places, key=lambda one: one[0]):
        own = np.array([place for _, place in group], dtype=np.int64)
        for start in range(0, len(own), size):
            yield draw, own[start : start + size]


def _rotated(chunks: list[list[str]]) -> list[list[str]]:
    """The chunks in another order for each process. Neighbours walk towards each other, so that they meet once and never
    go on side by side, each making what the other makes.
    """
    number, count = (rank(), world_size()) if world_size() > 1 else (os.getpid(), max(len(chunks), 1))
    back = number % 2
    first = (number + back) % count * len(chunks) // count
    turned = chunks[first:] + chunks[:first]
    return turned[::-1] if back else turned


def _padded(parts: Iterable[tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
    """Tokens of several batches padded with zeros to the longest, and their mask."""
    parts = list(parts)
    longest = max(tokens.shape[1] for tokens, _ in parts)
    tokens = torch.cat([nn.functional.pad(one, (0, 0, 0, longest - one.shape[1])) for one, _ in parts])
    masks = [torch.ones(one.shape[:2], dtype=torch.bool) if mask is None else mask for one, mask in parts]
    return {
        "tokens": tokens,
        "mask": torch.cat([nn.functional.pad(mask, (0, longest - mask.shape[1])) for mask in masks]),
    }


def _gather(places: Sequence[_Place]) -> Features:
    """Features of samples that lie in several shards, each of which is read once."""
    shards: dict[Any, dict[str, Tensor]] = {}
    rows: dict[Any, list[tuple[int, int]]] = {}
    for i, (shard, row) in enumerate(places):
        handle = shard if isinstance(shard, Path) else id(shard)
        shards.setdefault(handle, {} if isinstance(shard, Path) else shard)
        rows.setdefault(handle, []).append((i, row))
    order: list[int] = []
    pooled: list[Tensor] = []
    tokens: list[tuple[Tensor, Tensor | None]] = []
    for handle, pairs in rows.items():
        tensors = _load(handle) if isinstance(handle, Path) else shards[handle]
        index = torch.tensor([row for _, row in pairs])
        order += [i for i, _ in pairs]
        pooled.append(tensors["pooled"][index])
        if "tokens" in tensors:
            tokens.append((tensors["tokens"][index], tensors["mask"][index]))
    back = torch.tensor(order).argsort()
    features = Features(torch.cat(pooled)[back])
    if tokens:
        joined = _padded(tokens)
        features = features._replace(tokens=joined["tokens"][back], mask=joined["mask"][back])
    return features


# Files ----------------------------------------------------------------------------------------------------------------


def _save(path: Path, tensors: Mapping[str, Tensor], keys: Sequence[str]) -> None:
    from safetensors.torch import save_file

    with write_atomically(path) as temporary:
        save_file({k: t.contiguous() for k, t in tensors.items()}, temporary, {"keys": json.dumps(list(keys))})


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _keys_of(path: Path) -> list[str] | None:
    """The samples of a shard, from its header; None where there is no whole file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:  # refuses a file that is shorter than its header says
            keys: list[str] = json.loads((file.metadata() or {})["keys"])
            return keys
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
