"""Probe: `torch.export` of a model, with and without `present`, for any batch size."""

import pytest
import torch
from torch.export import Dim, export

from polymodal.fusion import Concat, Mixture, Sum
from tests.builders import WIDTH, make_batch, make_model, names

BATCH = {0: Dim("batch", min=2, max=64)}


@pytest.mark.parametrize("fusion", [Concat, Mixture, Sum])
@pytest.mark.parametrize("missing", [False, True], ids=["all_present", "present"])
def test_exported_program_equals_the_model(fusion, missing):
    model = make_model(fusion=fusion(dict.fromkeys(names(2), WIDTH), 3)).eval()
    dynamic = {"inputs": dict.fromkeys(names(2), BATCH), "present": {"m1": BATCH} if missing else None}

    def arguments(size):
        present = {"m1": torch.arange(size) % 2 == 0} if missing else None
        return {"inputs": make_batch(size=size).inputs, "present": present}

    program = export(model, (), arguments(4), dynamic_shapes=dynamic).module()
    for size in (4, 7):
        theirs, ours = program(**arguments(size)), model(**arguments(size))
        torch.testing.assert_close(theirs.logits, ours.logits)
        torch.testing.assert_close(theirs.unimodal, ours.unimodal)
    if missing:  # and the mask matters
        assert not torch.equal(ours.logits, model(make_batch(size=7).inputs).logits)
