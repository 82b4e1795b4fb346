"""Probe: a balancer that needs two gradients, in two processes."""

import torch

from polymodal.balancers import Balancer
from polymodal.distributed import average, unwrap
from tests.builders import difference, make_batch, make_model, make_step, weights
from tests.distributed import in_two_processes, replica, share


class UnitGradients(Balancer):
    """Each encoder follows the sum of its fused and its uni-modal gradient, both of length one; the rest is plain."""

    needs_heads = reduces_gradients = True

    def backward(self, step, run=torch.Tensor.backward):
        terms, fused = {m: step.unimodal_loss(m) for m in step.model.modalities}, step.fused_loss()
        own = {m: step.model.parameters_of(m) for m in terms}
        two = {m: [torch.autograd.grad(t, own[m], retain_graph=True) for t in (fused, terms[m])] for m in terms}
        run(loss := fused + sum(terms.values()))
        average([p.grad for p in step.model.parameters()] + [g for pair in two.values() for one in pair for g in one])
        for m, pair in two.items():
            lengths = [torch.cat([g.flatten() for g in one]).norm() for one in pair]
            for p, g, h in zip(own[m], *pair, strict=True):
                p.grad = g / lengths[0] + h / lengths[1]
        return loss.detach()


def train():
    model, balancer, batch = make_model(), UnitGradients(), share(make_batch())
    wrapped, optimizer = replica(model), torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        balancer.backward(make_step(unwrap(wrapped), batch))  # no gradient of it passes DDP
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


def test_two_processes_equal_one_with_the_doubled_batch():
    assert all(difference(one, train()) < 1e-12 for one in in_two_processes(train))
