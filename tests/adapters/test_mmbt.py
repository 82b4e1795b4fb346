"""MMBT against transformers' BERT given the same vectors, segments and positions."""

import pytest
import torch
from torch.nn import functional as F

from polymodal.adapters import MMBT, JointHead, MMBTText
from polymodal.adapters.mmbt import GRIDS, mmbt_ids
from polymodal.encoders import Bert, Encoder
from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.types import Features, Padded
from tests.adapters.hosts import TEXT, host, longer, mask_of
from tests.adapters.test_houlsby import same

CELLS = torch.randn(3, 5, 7, 7).double()
SEP = 3


class Cells(Encoder):
    """The last map of a CNN, given."""

    dim = 5

    def forward(self, x):
        return Features(x.mean((2, 3)), x.flatten(2).transpose(1, 2))


def make(images=3):
    text = MMBTText(host("bert").encoder)
    mmbt = MMBT(text, width=5, images=images, sep=SEP)
    model = MultimodalModel({"image": Cells(), "text": text}, JointHead({"image": 8, "text": 8}, 2), adapter=mmbt)
    return model.double().eval()


def words():
    mask = mask_of(5, 3, 4)
    ids = torch.randint(4, 20, mask.shape).masked_fill(~mask, 0)
    ids[:, 0] = 2
    return Padded(ids, mask)


def reference(model, cells, text, images, shown=None):
    """Of transformers' own model: hidden states, and the pooled first token."""
    net, mmbt = model.encoders["text"].bert.net, model.adapter
    table = net.embeddings.word_embeddings.weight
    pooled = F.adaptive_avg_pool2d(cells, GRIDS[images]).flatten(2).transpose(1, 2)
    cls, sep = (table[number].expand(3, 1, -1) for number in (2, SEP))
    vectors = torch.cat([cls, mmbt.project(pooled), sep, table[text.values[:, 1:]]], 1)
    length = text.values.shape[1] - 1
    front = torch.ones(3, images + 2, dtype=torch.bool) if shown is None else shown
    found = net(
        inputs_embeds=vectors,
        attention_mask=torch.cat([front, text.mask[:, 1:]], 1).long(),
        token_type_ids=torch.tensor([[0] * (images + 2) + [1] * length] * 3),
        position_ids=torch.tensor([[*range(images + 2), *range(length)]]),
    ).last_hidden_state
    return found, torch.tanh(mmbt.pool(found[:, 0]))


@pytest.mark.parametrize("images", [1, 3, 4])
def test_one_sequence_of_cells_and_words(images):
    model, text = make(images), words()
    hidden, pooled = reference(model, CELLS, text, images)
    for inputs in (text, longer(text)):
        found = model.encode({"image": CELLS, "text": inputs})
        assert found["image"] is found["text"]
        same(found["text"].pooled, pooled)
        same(
            found["text"].tokens[found["text"].mask],
            hidden[torch.cat([torch.ones(3, images + 2).bool(), text.mask[:, 1:]], 1)],
        )
    same(model({"image": CELLS, "text": text}).logits, model.fusion.layer(pooled))


def test_three_cells_are_bands_of_rows():
    model = make()
    pooled = model.adapter._cells(Cells()(CELLS))
    same(pooled[:, 0], CELLS[:, :, :3].mean((2, 3)))
    same(pooled[:, 1], CELLS[:, :, 2:5].mean((2, 3)))


def test_an_absent_image_is_masked():
    model, text = make(), words()
    there = torch.tensor([True, False, True])
    found = model.encode({"image": CELLS, "text": text}, {"image": there})
    shown = torch.ones(3, 5, dtype=torch.bool)
    shown[1, 1:4] = False
    same(found["text"].pooled, reference(model, CELLS, text, 3, shown)[1])
    wordless = model.encode({"image": CELLS, "text": text}, {"text": there})["text"].pooled
    other = Padded(torch.where(there[:, None], text.values, 4), text.mask)
    other.values[:, 0] = 2
    same(wordless, model.encode({"image": CELLS, "text": other}, {"text": there})["text"].pooled)


def test_everything_trains_but_words_that_do_not_occur():
    model = make()
    model({"image": CELLS, "text": words()}).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert sum(p.numel() for p in model.adapter.parameters()) == 5 * 8 + 8 + 8 * 8 + 8


def test_ids():
    ids = mmbt_ids(2, 3)
    assert torch.cat([ids.image_segment, ids.text_segment]).tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert torch.cat([ids.image_positions, ids.text_positions]).tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert ids.total_length == 7


def test_bad_input():
    text = MMBTText(host("bert").encoder)
    for options in ({"images": 10}, {"modalities": ("a", "a")}, {"sep": 20}):
        with pytest.raises(InputError, match="1 to 9 images, two names and one of 20 tokens"):
            MMBT(text, width=5, **({"sep": SEP} | options))
    roberta = {"model_type": "roberta", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    with pytest.raises(InputError, match="type 'roberta' with 2 segments; it needs a BERT with 2"):
        MMBTText(Bert(config=TEXT | roberta))
    with pytest.raises(InputError, match="texts of 18 tokens for a model of 16 positions"):
        text(torch.full((2, 18), 4))
    model = make()
    with pytest.raises(InputError, match="42 cells are no square map"):
        model({"image": CELLS[:, :, :6], "text": words()})
    with pytest.raises(InputError, match="yields no cells"):
        model({"image": Features(torch.zeros(3, 5).double()), "text": words()})
    with pytest.raises(InputError, match=r"joins \['image', 'text'\] and was given \['sound', 'text'\]"):
        model.adapter.after({"sound": Features(torch.zeros(3, 5)), "text": Features(torch.zeros(3, 8))})
