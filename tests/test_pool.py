"""The history buffer."""

import torch

from cyclegan_age.models.pool import ImagePool


def _fakes(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures filled with their number, and vectors that hold it."""
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    return numbers.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone(), numbers[:, None].clone()


def test_fills_first_then_hands_out_an_old_one_half_of_the_time_with_its_own_vector() -> None:
    torch.manual_seed(0)
    pool = ImagePool(size=50)
    x, v = pool.exchange(*_fakes(0, 50))
    assert torch.equal(v[:, 0], torch.arange(50.0))
    old, seen = 0, []
    for i in range(40):
        new_x, new_v = _fakes(100 + 10 * i, 10)
        x, v = pool.exchange(new_x, new_v)
        assert torch.equal(x[:, 0, 0, 0], v[:, 0])  # a picture never parts from its vector
        old += int((v != new_v).sum())
        seen += v[v != new_v].tolist()
    assert 160 < old < 240
    assert len(set(seen)) == len(seen)  # one that was handed out has left the buffer


def test_size_zero_hands_through() -> None:
    x, v = _fakes(0, 3)
    assert ImagePool(size=0).exchange(x, v) == (x, v)


def test_goes_on_from_its_state() -> None:
    pool = ImagePool(size=4)
    pool.exchange(*_fakes(0, 6))
    again = ImagePool(size=4)
    again.load_state_dict(pool.state_dict())
    outs = []
    for p in (pool, again):
        torch.manual_seed(1)
        outs.append(p.exchange(*_fakes(10, 6))[1])
    assert torch.equal(*outs)
