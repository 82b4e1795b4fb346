"""The smallest encoder that runs layer by layer, for probes of what adapters may do."""

from torch import nn
from torch.nn import functional as F

from polymodal.encoders import LayeredEncoder, State
from polymodal.encoders.base import masked_mean, split_padded
from polymodal.types import Features


class Attention(LayeredEncoder):
    """Sequences (B, L, D_in), padded or not, through `depth` layers of plain self-attention of width `dim`."""

    def __init__(self, in_dim: int, dim: int, depth: int) -> None:
        super().__init__()
        self.dim = dim
        self.project = nn.Linear(in_dim, dim)
        self.layers = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(depth))

    def embed(self, x):
        values, mask = split_padded(x)
        return State(self.project(values), mask)

    def run_layer(self, index, state):
        query, key, value = self.layers[index](state.tokens).chunk(3, -1)
        mask = None if state.mask is None else state.mask[:, None]
        return state._replace(tokens=state.tokens + F.scaled_dot_product_attention(query, key, value, attn_mask=mask))

    def finish(self, state):
        own = state.drop()
        return Features(masked_mean(own.tokens, own.mask), own.tokens, own.mask)
