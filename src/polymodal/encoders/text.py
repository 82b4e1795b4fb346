"""Pre-trained text encoders from transformers, run layer by layer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.encoders.base import LayeredEncoder, State, additive_mask, masked_mean, split_padded
from polymodal.encoders.weights import load_strictly, locate, read_weights
from polymodal.errors import InputError
from polymodal.types import Features, Padded

__all__ = ["Bert", "Deberta"]

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "spm.model", "special_tokens_map.json", "added_tokens.json")
LONGEST = 512
"""Tokens of a text at most (METHODS.md 5.9), where the model has as many positions."""


class _TextEncoder(LayeredEncoder):
    """Token numbers (B, L), padded or not, through a model of transformers."""

    kinds: ClassVar[frozenset[str]] = frozenset({"text"})
    models: ClassVar[Mapping[str, str]]

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        pool: str = "cls",
        buckets: int | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("cls", "mean"):
            raise InputError(f"{type(self).__name__}: pool={pool!r}; expected 'cls' or 'mean'")
        if (folder is None) == (config is None):
            raise InputError(
                f"{type(self).__name__}: give either folder, of a pre-trained model with its config.json, or config, the "
                "sizes of a model that is trained from scratch"
            )
        where = None if folder is None else locate(folder, ["config.json", *WEIGHTS, *TOKENIZER])
        values = dict(config or {}) if where is None else _read_config(where)
        if where is None and buckets is not None:
            values.setdefault("vocab_size", buckets)
        self.pool = pool
        self.net = self._build(values, where)
        self.dim: int = self.net.config.hidden_size
        if buckets is not None and buckets > self.net.config.vocab_size:
            raise InputError(
                f"{type(self).__name__}: texts of {buckets} different tokens for a model that knows "
                f"{self.net.config.vocab_size}; give the input its tokenizer (data.inputs.<modality>.tokenizer=FOLDER)"
            )
        if where is not None:
            file = _weights_file(where)
            load_strictly(self.net, self._own(read_weights(file)), file)
        self.rebuild: Mapping[str, Any] = {"folder": None, "config": values}

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        if settings.get("folder") is None:
            return {}
        where = locate(settings["folder"], ["config.json", *WEIGHTS, *TOKENIZER])
        config = _config(_read_config(where), where)
        return {"tokenizer": str(where), "max_length": min(LONGEST, _positions(config))}

    @property
    def layers(self) -> nn.ModuleList:  # type: ignore[override]  # a second name would double them in the state dict
        return self.net.encoder.layer  # type: ignore[no-any-return]

    def finish(self, state: State) -> Features:
        own = state.drop()
        pooled = own.tokens[:, 0] if self.pool == "cls" else masked_mean(own.tokens, own.mask)
        return Features(pooled, own.tokens, own.mask)

    def _ids(self, x: Tensor | Padded) -> tuple[Tensor, Tensor | None]:
        """Token numbers with the model's own padding, and the mask."""
        ids, mask = split_padded(x)
        config = self.net.config
        if ids.shape[1] > _positions(config):
            raise InputError(
                f"texts of {ids.shape[1]} tokens for a model of {_positions(config)} positions; cut them with "
                f"data.inputs.<modality>.max_length={_positions(config)}"
            )
        # Some models count positions by the tokens that are not padding.
        return (ids if mask is None else ids.masked_fill(~mask, config.pad_token_id or 0)), mask

    def _build(self, values: dict[str, Any], where: Path | None) -> Any:
        import transformers

        config = _config(values, where)
        if config.model_type not in self.models:
            other = next((one.__name__ for one in (Bert, Deberta) if config.model_type in one.models), None)
            remedy = f"use the encoder {other.lower()}" if other else "any encoder class of your own will do"
            raise InputError(
                f"{type(self).__name__} cannot run a model of type {config.model_type!r}"
                f"{'' if where is None else f' ({where})'}; it runs {', '.join(self.models)}; {remedy}"
            )
        make = getattr(transformers, self.models[config.model_type])
        # A pooling layer that nothing reads would be a parameter that nothing trains.
        return make(config, add_pooling_layer=False) if self.models[config.model_type] in POOLED else make(config)

    def _own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the file by this model's names, without the heads of its pre-training."""
        prefix = f"{self.net.base_model_prefix}."
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        known = self.net.state_dict()
        ignored = [*(self.net._keys_to_ignore_on_load_unexpected or []), r"position_ids$", r"^pooler\."]
        found = {}
        for name, one in tensors.items():
            # Files that were converted from TensorFlow call the two parameters of a norm gamma and beta.
            name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
            if name in known or not any(re.search(pattern, name) for pattern in ignored):
                found[name] = one
        return found


class Bert(_TextEncoder):
    """BERT or a model of its build (MiniLM, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA) on token numbers (B, L).

    Pooled features (B, D) are those of the first token, or the mean over real tokens; tokens (B, L, D) are the last layer's.

    Args:
        folder: of a pre-trained model: config.json with model.safetensors or pytorch_model.bin (and its tokenizer); or
            "hub:OWNER/REPOSITORY", the only form that is downloaded.
        config: of a model that is trained from scratch, by the names of transformers: "model_type" ("bert" by default),
            "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", ...
        pool: "cls" or "mean" (MiniLM's).
        buckets: number of different tokens of the input, told by the data.

    Raises:
        InputError: no such folder, a file that it lacks, weights that do not fit, a model of another build.

    Source: Devlin et al. 2019.

    Example:
        >>> small = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16}
        >>> small |= {"num_hidden_layers": 2, "num_attention_heads": 2}
        >>> features = Bert(config=small)(torch.tensor([[2, 7, 9, 3], [2, 5, 3, 3]]))
        >>> features.pooled.shape, features.tokens.shape
        (torch.Size([2, 8]), torch.Size([2, 4, 8]))
    """

    models: ClassVar[Mapping[str, str]] = {
        "bert": "BertModel",
        "roberta": "RobertaModel",
        "xlm-roberta": "XLMRobertaModel",
        "camembert": "CamembertModel",
        "electra": "ElectraModel",
    }

    def embed(self, x: Tensor | Padded) -> State:
        ids, mask = self._ids(x)
        tokens = self.net.embeddings(input_ids=ids)
        if hasattr(self.net, "embeddings_project"):  # ELECTRA's embeddings are narrower than its layers
            tokens = self.net.embeddings_project(tokens)
        return State(tokens, mask)

    def run_layer(self, index: int, state: State) -> State:
        mask = additive_mask(state.mask, state.tokens.dtype)
        return state._replace(tokens=self.layers[index](state.tokens, mask))


class Deberta(_TextEncoder):
    """DeBERTa (the first version, and v2 and v3) on token numbers (B, L); features as of `Bert`.

    Distances between tokens are counted anew in every layer, so that adapters may put tokens in front in mid-stack; the
    convolution that v2 has after its first layer runs over the text's own tokens alone.

    Args:
        folder, pool, buckets: as for `Bert`.
        config: as for `Bert`; "model_type" is "deberta" for the first version and "deberta-v2" for v2 and v3.

    Raises:
        InputError: as `Bert`.

    Source: He et al. 2021 (DeBERTa), He et al. 2023 (v3).

    Example:
        >>> small = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 16}
        >>> small |= {"num_hidden_layers": 2, "num_attention_heads": 2}
        >>> v3 = {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
        >>> Deberta(config=small | v3)(torch.tensor([[1, 7, 9, 2]])).pooled.shape
        torch.Size([1, 8])
    """

    models: ClassVar[Mapping[str, str]] = {"deberta": "DebertaModel", "deberta-v2": "DebertaV2Model"}

    def embed(self, x: Tensor | Padded) -> State:
        ids, mask = self._ids(x)
        with self._precision(ids.device):
            return State(self.net.embeddings(input_ids=ids, mask=mask), mask)

    def run_layer(self, index: int, state: State) -> State:
        encoder, mask = self.net.encoder, state.mask
        tokens = state.tokens.to(self.net.dtype) if self.net.config.model_type == "deberta" else state.tokens
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        visible = (mask | ~mask.any(1, keepdim=True)).long()
        with self._precision(tokens.device):
            found = self.layers[index](
                tokens,
                encoder.get_attention_mask(visible),
                relative_pos=encoder.get_rel_pos(tokens),
                rel_embeddings=encoder.get_rel_embedding(),
            )[0]
            if index == 0 and getattr(encoder, "conv", None) is not None:
                extra = state.extra
                own = encoder.conv(tokens[:, extra:], found[:, extra:], mask[:, extra:].long())
                found = torch.cat([found[:, :extra], own], 1)
        return state._replace(tokens=found)

    def _precision(self, device: torch.device) -> Any:
        """Mixed precision off for the first version, whose attention fills in a number that half precision has not."""
        off = self.net.config.model_type == "deberta"
        return torch.autocast(device.type, enabled=False) if off else nullcontext()


POOLED = {"BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel"}


def _config(values: Mapping[str, Any], where: Path | None) -> Any:
    from transformers import AutoConfig

    values = {"model_type": "bert", **values}
    try:
        return AutoConfig.for_model(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{where / 'config.json' if where else 'config'}: no model of transformers ({error})"
        ) from error


def _positions(config: Any) -> int:
    """Tokens of a text at most; RoBERTa and its kin begin to count behind the number of their padding."""
    spent = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(config.max_position_embeddings) - int(spent)


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(
            f"text model {folder}: no such folder; put config.json, {WEIGHTS[0]} and the tokenizer's files there"
        )
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"text model {folder}: config.json is missing; put the model's config.json there")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise InputError(f"{file}: no 'model_type', so it is not the configuration of a model of transformers")
    return {
        name: value for name, value in values.items() if not name.startswith("_") and name != "transformers_version"
    }


def _weights_file(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"text model {folder}: its weights are missing; put {WEIGHTS[0]} (or {WEIGHTS[1]}) there")
