"""P-tuning: learned tokens in front of the input of one encoder, or learned keys and values in every layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.adapters.anatomy import part, token_width
from polymodal.adapters.front import put, take
from polymodal.adapters.injected import Injected
from polymodal.adapters.lora.targets import adaptable
from polymodal.adapters.lora.updates import block_rows
from polymodal.encoders.base import LayeredEncoder, State
from polymodal.errors import InputError

__all__ = ["PTuning", "PTuningV2"]


class PTuning(Injected):
    """Virtual tokens, made by an LSTM over learned vectors, in front of the tokens of one frozen encoder (version 1).

    The vectors (l, D) go through two bidirectional LSTM layers of D / 2 hidden numbers each way and D -> ReLU -> D. A text
    encoder gives them its first l positions, as words of the text; behind the embedding of other encoders, whose positions
    mean places in a picture or a sound, they have none. `finish` drops them. The encoder never computes what it did without
    them. The adapter is `encoder.ptuning`.

    Args:
        encoder: changed in place.
        tokens: l.

    Raises:
        InputError: no token at all, an odd width, tokens that leave no position to a text, or an encoder with another
            adapter; when run, a text that is too long together with them.

    Source: Liu et al. 2023, "GPT understands, too", section 3.
    Differs from the authors' code: all tokens stand in front, where theirs may stand at any place of a template.

    Example:
        >>> from polymodal.encoders import SequenceTransformer
        >>> encoder = SequenceTransformer(in_dim=5, dim=16, depth=2, heads=2)
        >>> adapter = PTuning(encoder, tokens=4)
        >>> encoder.embed(torch.zeros(3, 7, 5)).tokens.shape, encoder(torch.zeros(3, 7, 5)).tokens.shape
        (torch.Size([3, 11, 16]), torch.Size([3, 7, 16]))
    """

    def __init__(self, encoder: LayeredEncoder, tokens: int = 20) -> None:
        super().__init__({"": encoder})
        _check_tokens("PTuning", tokens)
        words = self._words
        width = token_width(encoder) if words is None else words.word_embeddings.embedding_dim
        if width % 2:
            raise InputError(f"PTuning: tokens of width {width}; its LSTM has half of an even width each way")
        self.tokens = tokens
        self._check_positions(1)
        self.embedding = nn.Parameter(torch.randn(tokens, width))
        self.lstm = nn.LSTM(width, width // 2, num_layers=2, bidirectional=True, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self._replace("", "embed", self._embed)
        if words is not None:
            self._hooks.append(words.register_forward_pre_hook(self._among_words, with_kwargs=True))
        self._enter(name="ptuning")

    @property
    def _words(self) -> Any:
        """What embeds the token numbers of a text encoder; None in other encoders."""
        encoder = self.encoders[""]
        return part(encoder, "net.embeddings") if part(encoder, "net.embeddings.word_embeddings") else None

    def prompts(self) -> Tensor:
        """The virtual tokens (l, D)."""
        found: Tensor = self.mlp(self.lstm(self.embedding[None])[0])[0]
        return found

    def _embed(self, x: Any) -> State:
        encoder = self.encoders[""]
        state = type(encoder).embed(encoder, x)
        if self._words is None:
            return put(state, self.prompts())
        mask = None if state.mask is None else F.pad(state.mask, (self.tokens, 0), value=True)
        return state._replace(mask=mask, extra=self.tokens)

    def _among_words(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of a text model's embeddings: vectors instead of token numbers, the prompts in front."""
        words = cast(Any, module).word_embeddings(kwargs["input_ids"])
        self._check_positions(words.shape[1])
        prompts = self.prompts().to(words.dtype).expand(len(words), -1, -1)
        given = {**kwargs, "input_ids": None, "inputs_embeds": torch.cat([prompts, words], 1)}
        if given.get("mask") is not None:
            given["mask"] = F.pad(given["mask"], (self.tokens, 0), value=True)
        return args, given

    def _check_positions(self, length: int) -> None:
        table = getattr(self._words, "position_embeddings", None)
        if table is None:
            return
        spent = 0 if table.padding_idx is None else table.padding_idx + 1
        if self.tokens + length > table.num_embeddings - spent:
            raise InputError(
                f"PTuning: {self.tokens} prompts and texts of {length} tokens for a model of {table.num_embeddings - spent} "
                "positions; take fewer prompts, or cut the texts with data.inputs.<modality>.max_length"
            )


class PTuningV2(Injected):
    """Learned keys and values in front of those of every layer of one frozen encoder (version 2, deep prefixes).

    Layer by layer attention is softmax(q [K'; K]^T / sqrt(d)) [V'; V] with K' and V' (l, D); queries, masks and positions of
    the tokens are as they were. With `hidden` the prefixes of all layers are made of (l, D) vectors by D -> tanh -> all;
    without, they are the parameters themselves. In torch's `MultiheadAttention`, which projects what it is given, K' and V'
    are what the keys and values of the prefix are made of, W_k K' + b_k and W_v V' + b_v. In DeBERTa the prefix has the l
    positions before the first token, and the bias of the values is added to V' too. The encoder never computes what it did
    without them. The adapter is `encoder.ptuning`.

    Args:
        encoder: changed in place.
        tokens: l.
        hidden: width of the layer between.

    Raises:
        InputError: no token at all, an unknown attention, or an encoder with another adapter; it is as it was.

    Source: Liu et al. 2022, "P-tuning v2", section 3.2; Li and Liang 2021, section 4.3, for `hidden`.

    Example:
        >>> from polymodal.encoders import SequenceTransformer
        >>> encoder = SequenceTransformer(in_dim=5, dim=16, depth=2, heads=2)
        >>> PTuningV2(encoder, tokens=4).counts().trainable  # 4 tokens, 2 layers, keys and values of 16
        256
    """

    def __init__(self, encoder: LayeredEncoder, tokens: int = 20, *, hidden: int | None = None) -> None:
        super().__init__({"": encoder})
        _check_tokens("PTuningV2", tokens)
        self.tokens, self.width, depth = tokens, token_width(encoder), len(encoder.layers)
        hosts = [_attention(layer, self.width) for layer in encoder.layers]
        size = depth * 2 * self.width
        if hidden is None:
            self.embedding, self.mlp = nn.Parameter(torch.randn(tokens, size)), None
        else:
            self.embedding = nn.Parameter(torch.randn(tokens, self.width))
            self.mlp = nn.Sequential(nn.Linear(self.width, hidden), nn.Tanh(), nn.Linear(hidden, size))
        self._raw = isinstance(hosts[0], nn.MultiheadAttention)
        self._waiting: set[nn.Module] = set()
        """Projections of the running layer that have not been called yet; DeBERTa v3 calls them again on positions."""
        self._projections: list[list[nn.Module]] = []
        for index, host in enumerate(hosts):
            if isinstance(host, nn.MultiheadAttention):
                self._hooks.append(host.register_forward_pre_hook(partial(self._lengthen, index), with_kwargs=True))
                continue
            self._projections.append([one.module for one in host])
            for one in host:
                hook = partial(self._overwrite, index, one.parts, one.rows)
                self._hooks.append(one.module.register_forward_hook(hook))
        if not self._raw:
            self._replace("", "run_layer", self._run_layer)
        self._enter(name="ptuning")

    def prefix(self, index: int) -> Tensor:
        """Keys and values of layer `index`: (2, l, D)."""
        size = 2 * self.width
        rows = slice(index * size, (index + 1) * size)
        if self.mlp is None:
            flat = self.embedding[:, rows]
        else:
            last = cast(nn.Linear, self.mlp[2])
            flat = F.linear(self.mlp[:2](self.embedding), last.weight[rows], last.bias[rows])
        return flat.view(self.tokens, 2, self.width).transpose(0, 1)

    def _run_layer(self, index: int, state: State) -> State:
        """The layer with place-holders in front, whose keys and values `_overwrite` replaces."""
        encoder = self.encoders[""]
        places = state.tokens.new_zeros(self.tokens, self.width)
        self._waiting = set(self._projections[index])
        return take(type(encoder).run_layer(encoder, index, put(state, places)), self.tokens)[1]

    def _overwrite(
        self, index: int, parts: list[int], rows: Tensor, module: nn.Module, args: tuple[Any, ...], out: Tensor
    ) -> Tensor | None:
        """Forward hook of a projection: in front, other numbers in the rows of keys and values."""
        if module not in self._waiting:
            return None
        self._waiting.discard(module)
        new = torch.cat([self.prefix(index)[part] for part in parts], 1).to(out.dtype).expand(len(out), -1, -1)
        front = out[:, : self.tokens].index_copy(2, rows.to(out.device), new)
        return torch.cat([front, out[:, self.tokens :]], 1)

    def _lengthen(self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Forward pre-hook of a `MultiheadAttention`: longer keys, values and masks."""
        query, key, value = args
        front = self.prefix(index).to(key.dtype)[:, None].expand(-1, len(key), -1, -1)
        padding = kwargs.get("key_padding_mask")
        if padding is not None:
            kwargs = {**kwargs, "key_padding_mask": F.pad(padding, (self.tokens, 0))}
        return (query, torch.cat([front[0], key], 1), torch.cat([front[1], value], 1)), kwargs


class _Projection(NamedTuple):
    """A layer that yields keys (part 0), values (part 1) or both, in these columns of its output."""

    module: nn.Module
    parts: list[int]
    rows: Tensor


SEPARATE = (
    ("attention.self.key", "attention.self.value"),
    ("attention.self.key_proj", "attention.self.value_proj"),
    ("attention.k_proj", "attention.v_proj"),
    ("attention.key", "attention.value"),
)
FUSED = ("attn.qkv", "attention.self.in_proj")
RAW = ("attn", "self_attn")


def _attention(layer: nn.Module, width: int) -> nn.MultiheadAttention | Sequence[_Projection]:
    """What makes keys and values in a layer."""
    for name in RAW:
        found = part(layer, name)
        if isinstance(found, nn.MultiheadAttention) and found.batch_first:
            return found
    for name in FUSED:
        found = part(layer, name)
        if found is not None:
            target = adaptable(layer)[name]
            rows = block_rows(len(target.weight), 3, target.heads)
            return [_Projection(found, [0, 1], torch.cat([rows[1], rows[2]]))]
    for names in SEPARATE:
        both = [part(layer, name) for name in names]
        if all(both):
            return [_Projection(cast(nn.Module, one), [number], torch.arange(width)) for number, one in enumerate(both)]
    raise InputError(
        f"PTuningV2 in a layer of type {type(layer).__name__}: no known attention; it goes into layers of BERT, DeBERTa, timm's "
        "ViT, Wav2Vec2, the Conformer, and those with a batch-first torch.nn.MultiheadAttention"
    )


def _check_tokens(method: str, tokens: int) -> None:
    if tokens < 1:
        raise InputError(f"{method}: tokens={tokens}; at least one")
