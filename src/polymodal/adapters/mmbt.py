"""MMBT: the cells of an image as words in front of a text, in one BERT."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.adapters.base import Adapter
from polymodal.encoders.base import Encoder, State, split_padded, width
from polymodal.encoders.text import Bert
from polymodal.errors import InputError
from polymodal.types import Features, Padded

__all__ = ["MMBT", "MMBTIds", "MMBTText", "mmbt_ids", "put_mmbt"]

GRIDS = {1: (1, 1), 2: (2, 1), 3: (3, 1), 4: (2, 2), 5: (5, 1), 6: (3, 2), 7: (7, 1), 8: (4, 2), 9: (3, 3)}
"""Rows and columns that the cells of an image are averaged to, by the number of image tokens."""


class MMBTIds(NamedTuple):
    """Segments and positions of the two parts of the joint sequence, each (length,)."""

    image_segment: Tensor
    text_segment: Tensor
    image_positions: Tensor
    text_positions: Tensor

    @property
    def total_length(self) -> int:
        """Tokens of both parts."""
        return len(self.image_segment) + len(self.text_segment)


def mmbt_ids(images: int, texts: int) -> MMBTIds:
    """Segments and positions of [CLS] image 1 ... image N [SEP] and of T text tokens, whose positions begin at 0 again.

    Args:
        images: N.
        texts: T, without a first [CLS].

    Source: Kiela et al. 2019, section 3.

    Example:
        >>> mmbt_ids(1, 2).text_positions.tolist()
        [0, 1]
    """
    length = images + 2
    return MMBTIds(
        torch.zeros(length, dtype=torch.long),
        torch.ones(texts, dtype=torch.long),
        torch.arange(length),
        torch.arange(texts),
    )


class MMBTText(Encoder):
    """Token numbers (B, L), [CLS] first, to their word vectors (B, L, D): the text encoder of a model with `MMBT`.

    It holds the BERT, whose layers the adapter runs.

    Args:
        bert: of the type "bert", with two segments.

    Raises:
        InputError: a model without two segments; when run, a text longer than the positions of the model.

    Example:
        >>> small = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16}
        >>> bert = Bert(config=small | {"num_hidden_layers": 2, "num_attention_heads": 2})
        >>> MMBTText(bert)(torch.tensor([[2, 7, 9, 3]])).tokens.shape
        torch.Size([1, 4, 8])
    """

    kinds = Bert.kinds

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        config = bert.net.config
        if config.model_type != "bert" or config.type_vocab_size < 2:
            raise InputError(
                f"MMBT: a text model of type {config.model_type!r} with {config.type_vocab_size} segments; it needs a BERT with 2"
            )
        self.bert, self.dim, self.rebuild = bert, bert.dim, bert.rebuild

    def forward(self, x: Tensor | Padded) -> Features:
        ids, mask = split_padded(x)
        most = self.bert.net.config.max_position_embeddings
        if ids.shape[1] - 1 > most:
            raise InputError(
                f"MMBT: texts of {ids.shape[1]} tokens for a model of {most} positions; cut them with "
                f"data.inputs.<modality>.max_length={most}"
            )
        words = self.bert.net.embeddings.word_embeddings(ids if mask is None else ids.masked_fill(~mask, 0))
        return Features(words[:, 0], words, mask)


class MMBT(Adapter):
    """BERT over [CLS] image 1 ... image N [SEP] (segment 0) and the text without its [CLS] (segment 1, positions from 0).

    The cells (B, h w, D_i) of the image encoder's last map (of a ViT its patches, without the class token) are averaged to a
    grid of N cells, and a linear map makes words (B, N, D) of them. The pooled features are tanh(W t + b) of the first token t
    behind the last layer; the features of both modalities are the same joint ones, so that `JointHead` reads them once. A
    lacking image or text is masked. BERT and the image encoder are those of the model and train unless they are frozen.

    Args:
        text: the model's encoder of the texts.
        width: D_i of the image encoder.
        images: N, 1 to 9.
        modalities: names of image and text in the model.
        sep: number of the token [SEP].

    Raises:
        InputError: another N, or other modalities than these two; when run, an image encoder without a square map of cells.

    Source: Kiela et al. 2019, section 3; N = 3 as in their code.
    Differs from the authors' code: the pooling layer is new, since pre-trained ones are not kept, and there is no second,
        unused classifier. Their recipe freezes the image encoder for 3 epochs and BERT for 5, which is the caller's affair.

    Example:
        >>> small = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16}
        >>> bert = Bert(config=small | {"num_hidden_layers": 2, "num_attention_heads": 2})
        >>> text = MMBTText(bert)
        >>> mmbt = MMBT(text, width=6, sep=3)
        >>> cells = Features(torch.zeros(1, 6), torch.zeros(1, 49, 6))
        >>> mmbt.after({"image": cells, "text": text(torch.tensor([[2, 7, 9, 3]]))})["text"].tokens.shape
        torch.Size([1, 8, 8])
    """

    joins = True

    def __init__(
        self,
        text: MMBTText,
        width: int,
        images: int = 3,
        *,
        modalities: tuple[str, str] = ("image", "text"),
        sep: int = 102,
    ) -> None:
        super().__init__()
        vocabulary = text.bert.net.config.vocab_size
        if images not in GRIDS or len(set(modalities)) != 2 or not 0 <= sep < vocabulary:
            raise InputError(
                f"MMBT: images={images}, modalities={modalities}, sep={sep}; 1 to 9 images, two names and one of {vocabulary} "
                "tokens"
            )
        self.__dict__["_text"] = text  # not registered: it is an encoder of the model
        self.images, self.modalities, self.sep = images, modalities, sep
        self.project = nn.Linear(width, text.dim)
        self.pool = nn.Linear(text.dim, text.dim)
        self.to(next(text.parameters()))

    def dims_after(self, dims: Mapping[str, int]) -> dict[str, int]:
        return dict.fromkeys(dims, self.pool.out_features)

    def after(self, features: dict[str, Features]) -> dict[str, Features]:
        if set(features) != set(self.modalities):
            raise InputError(f"MMBT joins {list(self.modalities)} and was given {list(features)}")
        image, text = (features[m] for m in self.modalities)
        state = self._embedded(image, text)
        bert = cast(MMBTText, self.__dict__["_text"]).bert
        for index in range(len(bert.layers)):
            state = bert.run_layer(index, state)
        joint = Features(torch.tanh(self.pool(state.tokens[:, 0])), state.tokens, state.mask)
        return {m: joint for m in features}

    def _embedded(self, image: Features, text: Features) -> State:
        """The joint sequence in front of the first layer: (B, N + 2 + T, D)."""
        words = cast(Tensor, text.tokens)
        embeddings = cast(Any, self.__dict__["_text"]).bert.net.embeddings
        ids = mmbt_ids(self.images, words.shape[1] - 1)
        sep = embeddings.word_embeddings.weight[self.sep].expand(len(words), 1, -1)
        sequence = torch.cat([words[:, :1], self.project(self._cells(image)), sep, words[:, 1:]], 1)
        tokens = embeddings(
            inputs_embeds=sequence,
            token_type_ids=torch.cat([ids.image_segment, ids.text_segment]).to(words.device).expand(len(words), -1),
            position_ids=torch.cat([ids.image_positions, ids.text_positions]).to(words.device)[None],
        )
        if text.mask is None and text.present is None and image.present is None:
            return State(tokens)
        ends = torch.ones(len(words), 1, dtype=torch.bool, device=words.device)
        shown = [_shown(image, self.images), _shown(text, words.shape[1])[:, 1:]]
        return State(tokens, torch.cat([ends, shown[0], ends, shown[1]], 1))

    def _cells(self, image: Features) -> Tensor:
        """The cells averaged to the grid of N: (B, N, D_i)."""
        if image.tokens is None:
            raise InputError("MMBT: the image encoder yields no cells; use one with `tokens`, such as a ResNet")
        side = isqrt(image.tokens.shape[1])
        cells = image.tokens[:, -(side**2) :]
        if image.tokens.shape[1] - side**2 > 1:
            raise InputError(
                f"MMBT: {image.tokens.shape[1]} cells are no square map; use square images and a CNN or ViT"
            )
        maps = cells.transpose(1, 2).reshape(len(cells), -1, side, side)
        return F.adaptive_avg_pool2d(maps, GRIDS[self.images]).flatten(2).transpose(1, 2)


def put_mmbt(encoders: dict[str, nn.Module], images: int = 3, sep: int = 102) -> MMBT:
    """An `MMBT` over the encoders of an image and a text, whose `Bert` becomes an `MMBTText` in `encoders`.

    Args:
        encoders: by modality, one of them a `Bert`; changed in place.
        images: N.
        sep: number of the token [SEP].

    Raises:
        InputError: encoders of another number, or not exactly one `Bert` among them.

    Example:
        >>> from polymodal.encoders import ImageCNN
        >>> small = {"vocab_size": 200, "hidden_size": 8, "intermediate_size": 16}
        >>> bert = Bert(config=small | {"num_hidden_layers": 2, "num_attention_heads": 2})
        >>> encoders = {"photo": ImageCNN(3), "title": bert}
        >>> put_mmbt(encoders).modalities, type(encoders["title"]).__name__
        (('photo', 'title'), 'MMBTText')
    """
    texts = [m for m, encoder in encoders.items() if isinstance(encoder, Bert)]
    others = [m for m in encoders if m not in texts]
    if len(texts) != 1 or len(others) != 1:
        kinds = {m: type(encoder).__name__ for m, encoder in encoders.items()}
        raise InputError(
            f"MMBT joins one image encoder and one Bert, and was given {kinds}; choose encoders.<text>=bert_base"
        )
    text = MMBTText(cast(Bert, encoders[texts[0]]))
    encoders[texts[0]] = text
    return MMBT(text, width(encoders[others[0]]), images, modalities=(others[0], texts[0]), sep=sep)


def _shown(features: Features, length: int) -> Tensor:
    """Which of `length` tokens are real, none where the sample lacks the modality: (B, length)."""
    there = torch.ones(len(features.pooled), length, dtype=torch.bool, device=features.pooled.device)
    if features.mask is not None and features.mask.shape[1] == length:
        there = there & features.mask
    return there if features.present is None else there & features.present[:, None]
