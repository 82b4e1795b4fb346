"""Every balancer with every fusion, two and three modalities, every kind of task; what is added later joins by itself."""

# mypy: disable-error-code="index, union-attr"

import pytest
import torch

from polymodal import InputError
from tests.builders import (
    BALANCERS,
    FUSIONS,
    TASKS,
    grads,
    make_balancer,
    make_batch,
    make_fusion,
    make_model,
    make_step,
    weights,
)


def makes_no_sense(balancer, fusion, kind):
    """What each method says of itself: a split of the logits that the fusion lacks, prototypes of classes that are none."""
    method, joining = BALANCERS[balancer], FUSIONS[fusion]
    if method.default_score == "parts" and not joining.additive:
        return "parts"
    if balancer == "MSLR" and not joining.additive and not joining.needs_heads:
        return "additive"
    if balancer == "PMR" and kind != "classification":
        return "prototypes"
    return ""


def run(balancer, model, batch, task, rate=0.1):
    """One optimiser step; loss, coefficients and gradients are finite."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    optimizer.zero_grad()
    step = make_step(model, batch, task)
    loss = balancer.backward(step)
    values = {"loss": loss} | balancer.modulate(step) | grads(model)
    for name, value in values.items():
        assert torch.isfinite(value).all(), name
    optimizer.step()
    return values


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("balancer", BALANCERS)
def test_combination(balancer, fusion, count, kind):
    task, size = TASKS[kind], 6
    heads = BALANCERS[balancer].needs_heads or FUSIONS[fusion].needs_heads
    model = make_model(count, task, fusion=make_fusion(fusion, count, task), heads=heads)
    method = make_balancer(balancer, model)
    start, batch = weights(model), make_batch(count, task, size, length=3)
    reason = makes_no_sense(balancer, fusion, kind)
    if reason:
        with pytest.raises(InputError, match=reason):
            method.check(model, task)
        with pytest.raises(InputError, match=reason):
            run(make_balancer(balancer, model), model, batch, task)
        assert all(torch.equal(start[name], p) and p.grad is None for name, p in model.named_parameters())
        return
    method.check(model, task)
    method.start_epoch(model, [batch])

    # One step moves what has a gradient, in every modality, and nothing else.
    frozen = {name for name, p in model.encoders["m0"].net[0].named_parameters(prefix="encoders.m0.net.0")}
    model.encoders["m0"].net[0].requires_grad_(False)
    values, after = run(method, model, batch, task), weights(model)
    for name, _ in model.named_parameters():
        moved = name in values and bool((values[name] != 0).any())
        assert torch.equal(start[name], after[name]) != moved, name
        assert not (name in frozen and moved), name
    pushed = {name for name in values if name in start and not torch.equal(start[name], after[name])}
    for i in range(count):
        assert any(name.startswith(f"encoders.m{i}.") for name in pushed), i
        assert not heads or f"heads.m{i}.weight" in pushed
    assert any(name.startswith("fusion.") for name in pushed) or not list(model.fusion.parameters())

    # Batches at the edge of what may come.
    run(method, model, make_batch(count, task, 1, length=3), task)
    same = batch.target[:1].expand(batch.target.shape).clone()
    run(method, model, batch._replace(target=same), task)
    for present in ([False] * size, [True, False] * (size // 2)):
        values = run(method, model, batch._replace(present={"m1": torch.tensor(present)}), task)
        if not any(present):
            assert all(not values[name].any() for name in values if name.startswith("encoders.m1."))
    method.end_epoch({f"m{i}": 0.5 + 0.1 * i for i in range(count)})
    run(method, model, batch._replace(inputs={m: x * 1e5 for m, x in batch.inputs.items()}), task, rate=0.0)


def test_the_table_of_what_makes_no_sense_is_used():
    found = {makes_no_sense(b, f, kind) for b in BALANCERS for f in FUSIONS for kind in TASKS}
    assert "" in found
    assert "parts" in found
    assert {"Joint", "MultiLoss", "MLB", "OGM", "OGM_GE"} <= set(BALANCERS)
    assert {"Concat", "Sum", "Mixture"} <= set(FUSIONS)
    assert not any(makes_no_sense(b, f, kind) for b in ("Joint", "MultiLoss", "MLB") for f in FUSIONS for kind in TASKS)
