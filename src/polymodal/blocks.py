"""What several rooms build on: pieces of Transformers over padded sequences, eval mode and a method for a while."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ConformerBlock",
    "ConvolutionModule",
    "MaskedBatchNorm",
    "RelativeAttention",
    "evaluating",
    "positions",
    "relative_positions",
    "replacing",
    "visible",
]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside, and the former mode of every single submodule restored after, also after an error."""
    modes = [(sub, sub.training) for module in modules for sub in module.modules()]
    try:
        for sub, _ in modes:
            sub.training = False
        yield
    finally:
        for sub, mode in modes:
            sub.training = mode


@contextmanager
def replacing(module: nn.Module, method: str, own: Callable[..., Any]) -> Iterator[None]:
    """Inside, this one module has `own` for its method of that name."""
    before = module.__dict__.get(method)
    module.__dict__[method] = own
    try:
        yield
    finally:
        del module.__dict__[method]
        if before is not None:
            module.__dict__[method] = before


def visible(mask: Tensor) -> Tensor:
    """The tokens that attention may look at: `mask` (B, L), or all of them in a sample that has none.

    Attention over nothing is NaN. What such a sample then holds is finite, and no one's to read.

    Example:
        >>> visible(torch.tensor([[True, False], [False, False]])).tolist()
        [[True, False], [True, True]]
    """
    return mask | ~mask.any(1, keepdim=True)


def positions(length: int, like: Tensor) -> Tensor:
    """Sinusoids of the places 0, ..., L - 1: (L, W), in the width and type of `like` (..., W).

    Entry 2 k is sin(p / 10000^(2k / W)) and entry 2 k + 1 the cosine.

    Source: Vaswani et al. 2017, section 3.5.
    """
    return _sinusoids(torch.arange(length, device=like.device), like)


def relative_positions(length: int, like: Tensor) -> Tensor:
    """Sinusoids of the distances L - 1, ..., -(L - 1): (2 L - 1, W), see `positions`.

    Source: Dai et al. 2019, section 3.3.
    """
    return _sinusoids(torch.arange(length - 1, -length, -1, device=like.device), like)


def _sinusoids(place: Tensor, like: Tensor) -> Tensor:
    width = like.shape[-1]
    wide = torch.promote_types(like.dtype, torch.float32)
    rate = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=wide) * (-math.log(10000.0) / width))
    angle = place.to(wide)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width].to(like.dtype)


class RelativeAttention(nn.Module):
    """Attention with weights softmax_j(((q_i + u) k_j + (q_i + v) W_r r_{i-j}) / sqrt(d)) over the real tokens j.

    r is the sinusoid of the distance. u and v are learned, one a head; they stand for the bias of the query, and the
    softmax cancels that of the key.

    Source: Dai et al. 2019, section 3.3, as used by Gulati et al. 2020.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.query, self.key, self.distance = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.distance_bias = nn.Parameter(torch.zeros(heads, 1, width // heads))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, L, W) to tokens, attending to those that `mask` (B, L) calls real (see `visible`)."""
        length = x.shape[1]
        query, key, value = (self._split(layer(x)) for layer in (self.query, self.key, self.value))
        distance = self._split(self.distance(relative_positions(length, x))[None])
        scores = (query + self.distance_bias) @ distance.transpose(-1, -2) / math.sqrt(query.shape[-1])
        # Of (B, H, L, 2L - 1), whose entry (i, p) is at distance L - 1 - p, the entry (i, j) at distance i - j.
        place = torch.arange(length, device=x.device)
        place = length - 1 - place[:, None] + place
        bias = scores.gather(-1, place.expand(*scores.shape[:3], length))
        if mask is not None:
            bias = bias.masked_fill(~visible(mask)[:, None, None], -math.inf)
        attended = F.scaled_dot_product_attention(
            query + self.content_bias, key, value, attn_mask=bias, dropout_p=self.rate if self.training else 0.0
        )
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class MaskedBatchNorm(nn.Module):
    """Batch normalisation of (B, L, W) over samples and real tokens: padding enters neither mean nor variance.

    Without a mask it is torch's `BatchNorm1d`; a single real token, of which that would refuse the variance, becomes
    the bias.

    Source: Ioffe and Szegedy 2015, algorithm 1.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The same shape; `mask` (B, L) is true where a token is real."""
        mean, variance = self.mean, self.variance
        if self.training:
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            real = torch.ones_like(wide[..., :1]) if mask is None else mask[..., None].to(wide.dtype)
            count = real.sum().clamp_min(1)
            mean = (wide * real).sum((0, 1)) / count
            variance = ((wide - mean).square() * real).sum((0, 1)) / count
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
                unbiased = variance * (count / (count - 1).clamp_min(1))
                self.variance.lerp_(unbiased.to(self.variance.dtype), self.momentum)
        normal = (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return normal.to(x.dtype)


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise convolution with GLU, depthwise convolution, BatchNorm, Swish, pointwise convolution.

    Padding is zeroed in front of the depthwise convolution, where the sequence's end is zeros too.

    Source: Gulati et al. 2020, section 2.2.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 2 * width)
        # BatchNorm takes the mean away, and with it a bias.
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm = MaskedBatchNorm(width)
        self.leave = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, L, W) to tokens."""
        x = F.glu(self.enter(self.norm(x)), -1)
        if mask is not None:
            x = torch.where(mask[..., None], x, torch.zeros_like(x))
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.leave(F.silu(self.batch_norm(x, mask)))
        return out


class ConformerBlock(nn.Module):
    """Half a feed-forward step, relative self-attention, convolution, half a feed-forward step; LayerNorm.

    x (B, L, W) -> x + FFN(x) / 2 -> x + attention(LN(x)) -> x + convolution(x) -> LN(x + FFN'(x) / 2), where
    FFN(x) = W_2 drop(swish(W_1 LN(x))) with W_1 four times as wide.

    Padding behind the real tokens changes neither their result nor the statistics of BatchNorm.

    Args:
        width: W.
        heads: attention heads; divides W.
        kernel: of the depthwise convolution; odd.
        dropout: on attention weights, on every residual branch and inside the feed-forward steps.

    Source: Gulati et al. 2020, section 2.4.

    Example:
        >>> block = ConformerBlock(16, heads=4).eval()
        >>> x, mask = torch.randn(1, 5, 16), torch.tensor([[True, True, True, False, False]])
        >>> torch.allclose(block(x, mask)[:, :3], block(x[:, :3], None), atol=1e-5)
        True
    """

    def __init__(self, width: int, heads: int, kernel: int = 31, dropout: float = 0.1) -> None:
        super().__init__()
        self.before, self.after = _feed_forward(width, dropout), _feed_forward(width, dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = RelativeAttention(width, heads, dropout)
        self.convolution = ConvolutionModule(width, kernel)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None, extra: int = 0) -> Tensor:
        """Tokens (B, L, W) to tokens; real ones, which `mask` (B, L) tells, lie in front of padding.

        The first `extra` tokens have no place in the sequence: attention sees them, the convolution does not.
        """
        x = x + self.dropout(self.before(x)) / 2
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        own = self.dropout(self.convolution(x[:, extra:], None if mask is None else mask[:, extra:]))
        x = x + (F.pad(own, (0, 0, extra, 0)) if extra else own)
        out: Tensor = self.norm(x + self.dropout(self.after(x)) / 2)
        return out


def _feed_forward(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
    )
