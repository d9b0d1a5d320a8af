import pytest
import torch

from fastintl import CWRGPLoss
from fastintl.losses.base import Position
from fastintl.losses.cw_rgp import random_orders
from loaders.errors import UserError
from tests.fastintl.losses import references

HERE = Position(seed=5, step=7, epoch=0, rank=0)
CPU = torch.device("cpu")


def embeddings(v, n, d, seed=0):
    rng = torch.Generator().manual_seed(seed)
    base, noise = torch.randn(n, d, generator=rng), torch.randn(v, n, d, generator=rng)
    return base + noise + 2


def reference(views, loss, position=HERE):
    v, n, d = views.shape
    samples, channels = random_orders(position, CPU, (loss.w_iter, n), (v, loss.w_iter, n // loss.w_size, d))
    return references.cw_rgp(views, loss.groups, samples.view(loss.w_iter, -1, loss.w_size), channels, loss.cov_w)


def compare(views, loss):
    """Relative errors of the value and of the gradient against float64."""
    loss.position = HERE
    ours, theirs = views.clone().requires_grad_(), views.double().requires_grad_()
    value, expected = loss(ours), reference(theirs, loss)
    value.backward()
    expected.backward()
    assert value.dtype == torch.float32 and value.ndim == 0
    error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()
    return abs(value.item() / expected.item() - 1), error.item()


@pytest.mark.parametrize("views", [2, 3, 4])
@pytest.mark.parametrize("groups, w_size, w_iter", [(1, 16, 1), (4, 4, 1), (2, 8, 3)])
def test_agrees_with_float64(views, groups, w_size, w_iter):
    value, gradient = compare(embeddings(views, 16, 48), CWRGPLoss(groups, w_size, w_iter))
    assert value < 1e-6 and gradient < 1e-5


def test_the_covariance_term_agrees_and_stops_at_its_epoch():
    loss = CWRGPLoss(2, 8, cov_w=0.01, cov_stop=3)
    views = embeddings(2, 16, 48)
    value, gradient = compare(views, loss)
    assert value < 1e-6 and gradient < 1e-5
    plain = CWRGPLoss(2, 8)
    for epoch, is_on in ((0, True), (2, True), (3, False), (9, False)):
        loss.position = plain.position = HERE._replace(epoch=epoch)
        assert (loss(views) != plain(views)) == is_on


@pytest.mark.parametrize("scale", [1e-10, 1e-4, 1e4, 1e10])
def test_agrees_with_float64_at_any_scale(scale):
    value, gradient = compare(scale * embeddings(2, 16, 48), CWRGPLoss(2, 8))
    assert value < 1e-6 and gradient < 1e-5


def test_an_ill_conditioned_embedding_keeps_its_precision():
    """Singular values down to a hundred thousandth, where a covariance in float32 would hold nothing but rounding."""
    views = embeddings(2, 8, 64)
    u, s, vt = torch.linalg.svd(views.double() - views.double().mean(-1, keepdim=True), full_matrices=False)
    views = (u * torch.logspace(0, -5, s.shape[-1], dtype=torch.float64) @ vt).float()
    value, gradient = compare(views, CWRGPLoss(1, 8))
    assert value < 1e-6 and gradient < 1e-4


def test_one_group_of_the_whole_batch_is_zca_whitening_whatever_the_draws():
    views = embeddings(1, 8, 32).double()
    w = CWRGPLoss(1, 8).transformed(views)[0]
    torch.testing.assert_close(w @ w.T / 31, torch.eye(8).double())
    values, vectors = torch.linalg.eigh(torch.cov(views[0]))
    expected = vectors * values**-0.5 @ vectors.T @ (views[0] - views[0].mean(1, keepdim=True))
    torch.testing.assert_close(w, expected)


def test_draws_are_permutations_and_depend_on_seed_step_and_rank_alone():
    shapes = (2, 12), (3, 2, 4, 40)
    orders = random_orders(HERE, CPU, *shapes)
    for order, shape in zip(orders, shapes, strict=True):
        assert order.shape == shape and torch.equal(order.sort(-1).values, torch.arange(shape[-1]).expand(shape))
    rows = orders[1].flatten(0, -2)
    assert len(rows.unique(dim=0)) == len(rows)  # its own for every view, cut and sub-batch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    again = random_orders(HERE._replace(epoch=4), CPU, *shapes)
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(orders, again, strict=True))
    for other in (HERE._replace(seed=6), HERE._replace(step=8), HERE._replace(rank=1)):
        assert not torch.equal(orders[1], random_orders(other, CPU, *shapes)[1])


def test_draws_are_uniform():
    """Every channel comes first equally often: 4000 draws of 8, 500 each, standard deviation 21."""
    (orders,) = random_orders(HERE, CPU, (4000, 8))
    assert (orders[:, 0].bincount() - 500).abs().max() < 90


def test_alone_it_draws_anew_at_every_call_from_torch_s_generator():
    views, loss = embeddings(2, 16, 48), CWRGPLoss(4, 4)
    torch.manual_seed(0)
    first, second = loss(views), loss(views)
    torch.manual_seed(0)
    assert first != second and loss(views) == first


def test_the_scope_decides_whether_ranks_draw_alike():
    views = embeddings(2, 16, 48)
    for scope, alike in (("global", True), ("rank", False)):
        loss = CWRGPLoss(4, 4, scope=scope)
        values = []
        for rank in (0, 1):
            loss.position = HERE._replace(rank=rank)
            values.append(loss(views).item())
        assert (values[0] == values[1]) == alike == (not loss.per_rank)


def test_transformed_rows_stay_with_their_samples():
    """Whitening by 4 of 4 samples at a time keeps each sample closest to itself."""
    views = embeddings(2, 16, 48)
    loss = CWRGPLoss(2, 4)
    loss.position = HERE
    w = loss.transformed(views)
    cosines = torch.nn.functional.cosine_similarity(w[0][:, None], views[0].double()[None], dim=-1)
    assert torch.equal(cosines.argmax(1), torch.arange(16))


@pytest.mark.parametrize(
    "arguments, shape, says",
    [
        ({"groups": 5}, (2, 64, 48), "loss.groups to a divisor of 48"),
        ({"groups": 2, "w_size": 32}, (2, 64, 48), "loss.w_size to 24 or less"),
        ({"groups": 2, "w_size": 12}, (2, 64, 48), "loss.w_size to a divisor of 64 or change train.batch_size"),
        ({"groups": 2, "w_size": 8}, (1, 64, 48), "two or more views"),
        ({"groups": 0}, None, "groups=0"),
        ({"scope": "node"}, None, "scope"),
        ({"cov_w": 0.1}, None, "loss.cov_stop"),
        ({"cov_stop": 3}, None, "loss.cov_w"),
    ],
)
def test_what_cannot_be_whitened_is_refused_by_the_setting_to_change(arguments, shape, says):
    with pytest.raises(UserError, match=says):
        CWRGPLoss(**arguments)(torch.randn(shape))
