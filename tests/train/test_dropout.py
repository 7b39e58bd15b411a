from __future__ import annotations

import pytest
import torch

from ostinato.errors import InputError
from ostinato.train import RowDropout


def test_one_mask_per_row_for_all_steps() -> None:
    torch.manual_seed(0)
    y = RowDropout(0.25)(torch.ones(50, 40, 30))
    assert torch.equal(y, y[:1].expand_as(y))
    mask = y[0]
    assert mask.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert float((mask == 0).float().mean()) == pytest.approx(0.25, abs=0.04)
    assert len({tuple(row) for row in mask.tolist()}) == 40, "rows share a mask"


def test_evaluation_and_zero_change_nothing() -> None:
    x = torch.randn(3, 2, 4)
    assert RowDropout(0.5).eval()(x) is x
    assert RowDropout(0.0)(x) is x


def test_a_share_has_the_rows_of_the_whole() -> None:
    x = torch.ones(2, 5, 6)
    dropout = RowDropout(0.5)
    torch.manual_seed(1)
    whole = dropout(x)
    after = torch.get_rng_state()
    for share in (torch.tensor([0, 2, 4]), torch.tensor([1, 3])):
        torch.manual_seed(1)
        assert torch.equal(dropout(x[:, share], 5, share), whole[:, share])
        assert torch.equal(torch.get_rng_state(), after), "the next draw would be another"


def test_the_gradient_has_the_mask() -> None:
    x = torch.randn(3, 2, 4, requires_grad=True)
    y = RowDropout(0.5)(x)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad * x, y)


@pytest.mark.parametrize("p", [-0.1, 1.0, True, "0.5", float("nan")])
def test_no_probability(p: float) -> None:
    with pytest.raises(InputError, match="probability"):
        RowDropout(p)


def test_what_does_not_fit() -> None:
    dropout = RowDropout(0.5)
    with pytest.raises(InputError, match=r"x must be \(T, B, n\)"):
        dropout(torch.ones(3, 4))
    with pytest.raises(InputError, match="pass share"):
        dropout(torch.ones(3, 2, 4), 5)
    with pytest.raises(InputError, match="come with batch_rows"):
        dropout(torch.ones(3, 2, 4), None, torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"share must be \(B,\)"):
        dropout(torch.ones(3, 2, 4), 5, torch.tensor([0]))
