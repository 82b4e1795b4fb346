"""Low-rank updates of one weight: what is added to a layer's output, and to its weight when merged."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvUpdate", "KernelUpdate", "LinearUpdate", "Update", "block_rows", "convolve", "wide"]


class Update(nn.Module):
    """A rank-r update of one weight with factors `A` and `B`, scaled by alpha / r.

    A is drawn from N(0, 1/n), n the number of inputs of one row of A, so that A x keeps the size of x whatever the width;
    B is zero, so that the update begins as nothing. Factors of a weight in half precision are float32 and are cast in the
    forward pass: steps of a small learning rate would be rounded away.

    Args:
        weight: the adapted parameter, for its type and device.
        rank: r.
        alpha: numerator of the scale.
        dropout: probability with which an entry of the update's input is zeroed in training.
    """

    A: nn.Parameter
    B: nn.Parameter

    def __init__(self, weight: Tensor, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        self.rank, self.alpha, self.dropout = rank, float(alpha), dropout
        self.enabled, self.merged = True, False
        self._dtype, self._device = wide(weight.dtype), weight.device

    def _factors(self, a: tuple[int, ...], b: tuple[int, ...], generator: torch.Generator | None) -> None:
        fan_in = torch.Size(a[1:]).numel()
        if self._device.type == "meta":
            drawn = torch.empty(a, dtype=self._dtype, device="meta")
        else:  # drawn on the CPU, so that a seed means the same factors on every device
            drawn = torch.randn(a, generator=generator, dtype=self._dtype) * fan_in**-0.5
        self.A = nn.Parameter(drawn.to(self._device))
        self.B = nn.Parameter(torch.zeros(b, dtype=self._dtype, device=self._device))

    @property
    def scale(self) -> float:
        """The factor alpha / r."""
        return self.alpha / self.rank

    def add(self, host: nn.Module, out: Tensor, x: Tensor) -> Tensor:
        """The host's output `out` for its input `x`, with the update's share added."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """What merging adds to the weight, of the weight's shape."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout:g}, weight={self.shape}"


class LinearUpdate(Update):
    r"""y = W x + (alpha / r) B A x; one such update for each of the `parts` of a fused weight.

    x (..., in) to y (..., out); A (parts r, in) and B (out, r) hold the factors of the parts one after the other, so with
    Q, K and V fused in one weight A is [A_q; A_k; A_v] and B is [B_q; B_k; B_v], each pair of rank r. All are applied by one
    projection to parts r numbers and one batched product; no (out, in) tensor is built.

    Args:
        parts: number of equal projections that share the weight.
        heads: 1 where the rows of the weight are whole parts in turn (timm, torch); the number of attention heads where
            every head brings its own rows of each part (`block_rows`).

    Source: Hu et al. 2022, eq. 3. Differs from the authors' code: A is Gaussian as their text says, not Kaiming-uniform.
    """

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        *,
        parts: int = 1,
        heads: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(weight, rank, alpha, dropout)
        self.parts, self.heads = parts, heads
        out, inputs = weight.shape
        self._factors((parts * rank, inputs), (out, rank), generator)

    def add(self, host: nn.Module, out: Tensor, x: Tensor) -> Tensor:
        a, b = self.A.to(x.dtype), self.B.to(x.dtype)
        t = F.linear(F.dropout(x, self.dropout, self.training), a)
        if self.parts == 1:
            flat = torch.addmm(out.reshape(-1, out.shape[-1]), t.reshape(-1, self.rank), b.t(), alpha=self.scale)
            return flat.view(out.shape)
        each = out.shape[-1] // self.parts
        rows = t.shape.numel() // t.shape[-1]
        blocks = torch.bmm(t.reshape(rows, self.parts, -1).transpose(0, 1), self._blocks(b).transpose(1, 2))
        shares = blocks.view(self.parts, rows, self.heads, each // self.heads).permute(1, 2, 0, 3)
        return torch.add(out.reshape(shares.shape), shares, alpha=self.scale).reshape(out.shape)

    def added_to(self, weight: Tensor) -> Tensor:
        """W + (alpha / r) B A with gradients, for a host that reads its weight instead of calling a layer.

        No input is seen here, so dropout zeroes features of the input: one draw for every row of the batch.
        """
        a = self.A * F.dropout(self.A.new_ones(self.A.shape[1]), self.dropout, self.training)
        blocks = torch.bmm(self._blocks(self.B), a.view(self.parts, self.rank, -1))
        return weight + (blocks.reshape(self.shape) * self.scale).to(weight.dtype)

    def delta(self) -> Tensor:
        blocks = torch.bmm(self._blocks(self.B), self.A.view(self.parts, self.rank, -1)) * self.scale
        return self.in_place(blocks.reshape(self.shape))

    def in_place(self, rows: Tensor) -> Tensor:
        """Rows given part after part, in the order of the weight's rows."""
        if self.heads == 1:
            return rows
        order = block_rows(self.shape[0], self.parts, self.heads).flatten().to(rows.device)
        return torch.empty_like(rows).index_copy(0, order, rows)

    def _blocks(self, b: Tensor) -> Tensor:
        return b.view(self.parts, -1, self.rank)


class ConvUpdate(Update):
    r"""y = W * x + (alpha / r) B * (A * x): a convolution to r channels like the host's own, then one of size 1.

    A (r, in / groups, k...) takes stride, padding, dilation and groups of the host; B (out, r / groups, 1...). The update
    of the (out, in k...) matrix has rank r; that of a grouped convolution is block-diagonal like the kernel itself, so it
    can be merged.

    Differs from HF peft: peft drops the dilation, and its grouped update sees all channels and cannot be merged.
    """

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        *,
        groups: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(weight, rank, alpha, dropout)
        self.groups = groups
        ones = (1,) * (weight.dim() - 2)
        self._factors((rank, *weight.shape[1:]), (weight.shape[0], rank // groups, *ones), generator)

    def add(self, host: nn.Module, out: Tensor, x: Tensor) -> Tensor:
        a, b = self.A.to(x.dtype), self.B.to(x.dtype)
        t = convolve(host, F.dropout(x, self.dropout, self.training), a) * self.scale
        point = F.conv1d if b.dim() == 3 else F.conv2d
        return out + point(t, b, groups=self.groups)

    def delta(self) -> Tensor:
        a = self.A.reshape(self.groups, self.rank // self.groups, -1)
        b = self.B.reshape(self.groups, -1, self.rank // self.groups)
        return torch.bmm(b, a).reshape(self.shape) * self.scale


class KernelUpdate(Update):
    r"""y = (W + (alpha / r) reshape(B A)) * x, the form of the first LoRA library.

    A (r k, in k) and B (out k, r k) for a square k x k kernel: the product, read row by row as (out, in, k, k), has rank up
    to r k as a matrix. For a kernel of one dimension B is (out, r k). A step costs a second convolution, since the product
    does not part into two.

    Source: Hu et al. 2022, `loralib.Conv2d`. Differs from the authors' code: their factors for one-dimensional kernels do
    not multiply to the kernel's size, and their convolutions have no dropout.
    """

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(weight, rank, alpha, dropout)
        out, inputs, k = weight.shape[:3]
        rows = out * k if weight.dim() == 4 else out
        self._factors((rank * k, inputs * k), (rows, rank * k), generator)

    def add(self, host: nn.Module, out: Tensor, x: Tensor) -> Tensor:
        return out + convolve(host, F.dropout(x, self.dropout, self.training), self.delta().to(x.dtype))

    def delta(self) -> Tensor:
        return (self.B @ self.A).view(self.shape) * self.scale


def block_rows(out: int, parts: int, heads: int = 1) -> Tensor:
    """Rows of a fused weight that belong to each part, as (parts, out / parts) indices.

    With `heads` above 1 rows come head by head, each with its rows of every part in turn (DeBERTa v1).

    Example:
        >>> block_rows(6, parts=3).tolist()
        [[0, 1], [2, 3], [4, 5]]
        >>> block_rows(12, parts=3, heads=2).tolist()
        [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    """
    return torch.arange(out).view(heads, parts, -1).transpose(0, 1).reshape(parts, -1)


def convolve(host: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The host's convolution with another kernel and no bias; stride, padding, dilation and groups are its own."""
    conv = cast(nn.Conv2d, host)
    if type(host).__name__ == "Conv2dSame":  # timm's, which pads by the size of its input
        from timm.layers.padding import pad_same

        padded = pad_same(x, list(weight.shape[-2:]), list(conv.stride), list(conv.dilation))
        return F.conv2d(padded, weight, None, conv.stride, (0, 0), conv.dilation, conv.groups)
    return cast(Tensor, conv._conv_forward(x, weight, None))


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which factors are kept and merged: float32, or wider where the weight is."""
    return torch.promote_types(dtype, torch.float32)
