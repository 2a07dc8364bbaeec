"""The history buffer."""

import torch

from cyclegan_age.models.pool import ImagePool


def _fakes(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures filled with their number, and vectors that hold it."""
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    return numbers.view(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone(), numbers[:, None].clone()


def _kept(pool: ImagePool) -> list[float]:
    """Numbers of the pictures in the buffer, each of which is with its vector."""
    state = pool.state_dict()
    assert torch.equal(state["pictures"][:, 0, 0, 0], state["vectors"][:, 0])
    return state["vectors"][:, 0].tolist()


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


def test_no_picture_is_lost_or_doubled_and_every_place_is_exchanged_alike() -> None:
    torch.manual_seed(0)
    pool, places = ImagePool(size=5), torch.zeros(5)
    pool.exchange(*_fakes(0, 5))
    for i in range(1, 200):
        before = _kept(pool)
        new = _fakes(5 * i, 5)
        _, v = pool.exchange(*new)
        after = _kept(pool)
        assert sorted(after + v[:, 0].tolist()) == sorted(before + new[1][:, 0].tolist())
        places += torch.tensor([a != b for a, b in zip(before, after, strict=True)])
    assert (places / 199 - 0.5).abs().max() < 0.12  # five of five places, each picture with probability 1/2


def test_a_batch_that_fills_the_buffer_is_handed_out_itself_and_none_is_taken_before() -> None:
    pool = ImagePool(size=6)
    for first, kept in ((0, 4), (4, 6)):
        new = _fakes(first, 4)
        assert torch.equal(pool.exchange(*new)[1], new[1])
        assert _kept(pool) == list(range(kept))


def test_a_batch_larger_than_the_buffer_goes_in_parts() -> None:
    torch.manual_seed(0)
    pool, seen = ImagePool(size=3), set[float]()
    for i in range(20):
        before = _kept(pool) if i else []
        new = _fakes(8 * i, 8)
        x, v = pool.exchange(*new)
        assert x.shape == new[0].shape and torch.equal(x[:, 0, 0, 0], v[:, 0])
        if i:
            assert sorted(_kept(pool) + v[:, 0].tolist()) == sorted(before + new[1][:, 0].tolist())
        seen |= set(v[v != new[1]].tolist())
    assert len(seen) > 40


def test_size_zero_hands_through() -> None:
    x, v = _fakes(0, 3)
    assert ImagePool(size=0).exchange(x, v) == (x, v)
    assert ImagePool(size=3).state_dict() == {}


def test_memory_stays_where_it_is() -> None:
    pool = ImagePool(size=4)
    places = []
    for i in range(3):
        pool.exchange(*_fakes(3 * i, 3))
        assert pool.pictures is not None and pool.rows is not None
        places.append([t.data_ptr() for t in (pool.pictures, pool.rows, pool.filled)])
    assert places[0] == places[1] == places[2]


def test_resumes_from_its_state() -> None:
    for count in (3, 6):  # half full and full
        pool = ImagePool(size=4)
        pool.exchange(*_fakes(0, count))
        again = ImagePool(size=4)
        again.load_state_dict(pool.state_dict())
        for i in range(4):
            outs = []
            for p in (pool, again):
                torch.manual_seed(i)
                outs.append(p.exchange(*_fakes(10 + 6 * i, 2))[1])
            assert torch.equal(*outs)
        assert _kept(pool) == _kept(again)


def test_a_state_goes_to_the_device_of_the_next_exchange() -> None:
    pool = ImagePool(size=4)
    pool.load_state_dict(dict(zip(("pictures", "vectors"), _fakes(0, 2), strict=True)))
    assert _kept(pool) == [0, 1]
    outs = pool.exchange(*(t.to("meta") for t in _fakes(2, 2)))
    assert all(t is not None and t.is_meta for t in (*outs, pool.pictures, pool.rows, pool.filled))
