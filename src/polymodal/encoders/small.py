"""Small encoders that train from scratch on a processor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from polymodal.encoders.base import Encoder, masked_mean, split_padded
from polymodal.errors import InputError
from polymodal.types import Features, Padded

__all__ = ["MLP", "FrameCNN", "ImageCNN", "SpectrogramCNN", "TextBag"]


class MLP(Encoder):
    """Numbers or vectors (B, D_in) through linear layers with ReLU; a sequence (B, L, D_in) is encoded token by token.

    Args:
        in_dim: D_in.
        dim: width of the features.
        hidden: widths of the layers between.
        dropout: after each hidden layer.

    Example:
        >>> MLP(10, dim=8)(torch.zeros(4, 10)).pooled.shape
        torch.Size([4, 8])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"numeric", "categorical", "vector"})

    def __init__(self, in_dim: int, dim: int = 64, hidden: Sequence[int] = (64,), dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        widths = [in_dim, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], dim), nn.ReLU())

    def forward(self, x: Tensor | Padded) -> Features:
        values, mask = split_padded(x)
        tokens = self.net(values)
        if tokens.ndim == 2:
            return Features(tokens)
        return Features(masked_mean(tokens, mask), tokens, mask)


class _Block(nn.Module):
    """Convolution, pooling of two, BatchNorm, ReLU: maps (B, C, H, W) -> (B, D, ceil(H / 2), ceil(W / 2)).

    With a `mask` (B, W) of real columns, padding must be zero and is zero in the result. Pooling comes before BatchNorm
    because the rest then costs a quarter.
    """

    def __init__(self, channels: int, out: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(out) if norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        # Channels last: on processors the pooling of so few channels is several times faster, and BatchNorm no slower.
        maps = self.conv(x).contiguous(memory_format=torch.channels_last)
        if mask is not None:
            # What convolution spreads into the padding must not win in a pooling window at the border.
            maps = maps.masked_fill(~mask[:, None, None], float("-inf"))
        maps = nn.functional.max_pool2d(maps, 2, ceil_mode=True)
        if mask is None:
            return torch.relu(self.norm(maps))
        padding = ~_halved(mask)[:, None, None]
        return torch.relu(self.norm(maps.masked_fill(padding, 0))).masked_fill(padding, 0)


def _blocks(channels: int, width: int, depth: int, norm: bool) -> nn.Sequential:
    widths = [channels, *(width * 2**block for block in range(depth))]
    return nn.Sequential(*(_Block(before, after, norm) for before, after in pairwise(widths)))


class ImageCNN(Encoder):
    """Images (B, C, H, W) through blocks of convolution, pooling, BatchNorm and ReLU; tokens are the last map's cells.

    Args:
        channels: C.
        dim: width of the features.
        width: channels of the first block, doubled in each of the following.
        depth: number of blocks; each halves H and W.
        grid: the last map is averaged to grid x grid cells, whose concatenation is projected to the pooled features.
        norm: BatchNorm in each block.
        dropout: in front of the projection.

    Example:
        >>> features = ImageCNN(3, dim=32)(torch.zeros(2, 3, 64, 64))
        >>> features.pooled.shape, features.tokens.shape
        (torch.Size([2, 32]), torch.Size([2, 16, 32]))
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(
        self,
        channels: int,
        dim: int = 64,
        width: int = 16,
        depth: int = 3,
        grid: int = 4,
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.blocks = _blocks(channels, width, depth, norm)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        # One projection of each cell, summed over cells: a linear layer on the flattened map, whose terms are the tokens.
        self.cells = nn.Parameter(torch.empty(grid * grid, width * 2 ** (depth - 1), dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.cells, std=(2 / (grid * grid * width * 2 ** (depth - 1))) ** 0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Features:
        cells = self.dropout(self.pool(self.blocks(x)).flatten(2))
        tokens = torch.einsum("bcl,lcd->bld", cells, self.cells)
        return Features(torch.relu(tokens.sum(1) + self.bias), tokens)


class FrameCNN(ImageCNN):
    """Video (B, T, C, H, W) with its T frames stacked as T x C channels of one image: short, aligned clips.

    Args:
        frames: T.
        channels: C of one frame.
        dim, width, depth, grid, norm, dropout: see `ImageCNN`.

    Raises:
        InputError: a clip of another number of frames.

    Example:
        >>> FrameCNN(frames=12, channels=1)(torch.zeros(2, 12, 1, 24, 36)).pooled.shape
        torch.Size([2, 64])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"video"})

    def __init__(
        self,
        frames: int,
        channels: int,
        dim: int = 64,
        width: int = 24,
        depth: int = 3,
        grid: int = 4,
        norm: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(frames * channels, dim, width, depth, grid, norm, dropout)
        self.frames = frames

    def forward(self, x: Tensor) -> Features:
        if x.shape[1] != self.frames:
            raise InputError(f"a clip of {x.shape[1]} frames for an encoder of {self.frames}; sample as many")
        return super().forward(x.flatten(1, 2))


class SpectrogramCNN(Encoder):
    """Spectrograms (B, 1, F, T), padded or not, through convolution blocks; tokens are the last map's columns in time.

    Of K clips of each sound (B, K, 1, F, T) the pooled features are averaged and the tokens follow each other. Padding never
    changes a result: it is zeroed after each block, and means run over real columns alone.

    Args:
        bins: F.
        channels: of the input.
        dim, width, depth, dropout: see `ImageCNN`.
        norm: BatchNorm in each block.
        segments: the real columns are averaged in this many equal stretches of time, whose concatenation is projected to
            the pooled features, so that the order of sounds is not lost.

    Example:
        >>> SpectrogramCNN(40)(torch.zeros(2, 1, 40, 48)).pooled.shape
        torch.Size([2, 64])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"audio"})

    def __init__(
        self,
        bins: int,
        channels: int = 1,
        dim: int = 64,
        width: int = 16,
        depth: int = 3,
        segments: int = 4,
        norm: bool = True,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.dim, self.segments = dim, segments
        self.blocks = _blocks(channels, width, depth, norm)
        rows = bins
        for _ in range(depth):
            rows = (rows + 1) // 2
        self.column = nn.Linear(rows * width * 2 ** (depth - 1), dim)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(segments * dim, dim)

    def forward(self, x: Tensor | Padded) -> Features:
        values, mask = split_padded(x)
        if values.dim() == 5:
            clips = self(values.flatten(0, 1))
            count = (len(values), values.shape[1])
            return Features(clips.pooled.unflatten(0, count).mean(1), clips.tokens.unflatten(0, count).flatten(1, 2))
        if mask is not None:
            values = values.masked_fill(~mask[:, None, None], 0)
        for block in self.blocks:
            values = block(values, mask)
            mask = None if mask is None else _halved(mask)
        tokens = torch.relu(self.column(self.dropout(values.flatten(1, 2).transpose(1, 2))))
        return Features(torch.relu(self.project(self._stretches(tokens, mask).flatten(1))), tokens, mask)

    def _stretches(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Means of equal stretches of the real columns: (B, L, D) -> (B, segments, D)."""
        length = tokens.shape[1]
        position = torch.arange(length, device=tokens.device, dtype=tokens.dtype)[None]
        real = (
            mask.sum(1, keepdim=True).clamp_min(1).to(tokens.dtype)
            if mask is not None
            else position.new_tensor([[length]])
        )
        size = real / self.segments  # a column belongs to a stretch by the share of it that lies inside
        starts = torch.arange(self.segments, device=tokens.device, dtype=tokens.dtype)[None, :, None] * size[..., None]
        ends = starts + size[..., None]
        share = (torch.minimum(position[:, None] + 1, ends) - torch.maximum(position[:, None], starts)).clamp_min(0)
        return torch.einsum("bsl,bld->bsd", (share / size[..., None]).expand(len(tokens), -1, -1), tokens)


def _halved(mask: Tensor) -> Tensor:
    """The mask (B, T) after a pooling of two with `ceil_mode`."""
    padded = nn.functional.pad(mask, (0, mask.shape[1] % 2))
    return padded.view(len(mask), -1, 2).any(-1)


class TextBag(Encoder):
    """Hashed words and character n-grams (B, L), embedded and averaged: text without any download.

    Args:
        buckets: size of the hash table; id 0 is padding.
        dim: width of the features.
        embed_dim: width of the embeddings.
        dropout: on the averaged embedding.

    Source: Joulin et al. 2017 (fastText), with one hidden layer more.

    Example:
        >>> ids = torch.tensor([[5, 9, 0], [3, 0, 0]])
        >>> TextBag(16)(Padded(ids, ids > 0)).pooled.shape
        torch.Size([2, 64])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"text"})

    def __init__(self, buckets: int, dim: int = 64, embed_dim: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(buckets, embed_dim, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.project = nn.Linear(embed_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor | Padded) -> Features:
        ids, mask = split_padded(x)
        mask = ids > 0 if mask is None else mask
        tokens = self.embedding(ids)
        # Sum over the square root of the count: a mean would make long texts faint, a sum loud.
        summed = (tokens * mask[..., None].to(tokens.dtype)).sum(1) / mask.sum(1, keepdim=True).clamp_min(1).sqrt()
        return Features(torch.relu(self.project(self.dropout(summed))), self.project(tokens), mask)
