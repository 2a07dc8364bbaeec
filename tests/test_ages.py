"""Years, groups and age vectors."""

import pytest
import torch

from cyclegan_age.ages import AgeCode, parse_group, parse_groups, planes


@pytest.mark.parametrize(
    ("years", "vector"),
    [
        (27, [0, 0.3, 0.7, 0, 0, 0]),
        (10, [1, 0, 0, 0, 0, 0]),
        (20, [0, 1, 0, 0, 0, 0]),
        (60, [0, 0, 0, 0, 0, 1]),
        (3, [1, 0, 0, 0, 0, 0]),
        (99, [0, 0, 0, 0, 0, 1]),
    ],
)
def test_linear_vectors_interpolate_between_anchors_and_clamp(years: float, vector: list[float]) -> None:
    torch.testing.assert_close(AgeCode().encode([years]), torch.tensor([vector], dtype=torch.float32))


def test_linear_vectors_stand_for_their_years_on_uneven_anchors() -> None:
    code = AgeCode((10, 18, 30, 60))
    years = torch.arange(10.0, 60.5, 0.5)
    torch.testing.assert_close(code.encode(years) @ torch.tensor(code.nominal_years), years)


def test_onehot_vectors_are_the_decade() -> None:
    code = AgeCode(form="onehot")
    assert code.encode([5, 10, 19.9, 20, 59, 60, 80]).argmax(1).tolist() == [0, 0, 0, 1, 4, 5, 5]
    assert code.encode([33]).sum() == 1
    assert code.nominal_years[4] == 55


@pytest.mark.parametrize(
    ("form", "groups"),
    [
        ("linear", {4: None, 5: 0, 14.9: 0, 15: 1, 24: 1, 25: 2, 55: 5, 69: 5, 70: None}),
        ("onehot", {9: None, 10: 0, 19: 0, 20: 1, 59: 4, 60: 5, 69: 5, 70: None}),
    ],
)
def test_groups_have_half_open_bounds(form: str, groups: dict[float, int | None]) -> None:
    code = AgeCode(form="onehot") if form == "onehot" else AgeCode()
    assert {years: code.group(years) for years in groups} == groups
    assert len(code.edges) == len(code) + 1


def test_planes_are_constant_over_the_picture() -> None:
    vector = AgeCode().encode([27, 60])
    x = planes(vector, 3, 5)
    assert x.shape == (2, 6, 3, 5)
    assert torch.equal(x.amin((2, 3)), vector) and torch.equal(x.amax((2, 3)), vector)


@pytest.mark.parametrize(
    ("name", "years"),
    [
        ("20", (20, 20)),
        ("20s", (20, 29)),
        ("00s", (0, 9)),
        ("20-29", (20, 29)),
        ("20–29", (20, 29)),
        ("20_24", (20, 24)),
        ("20 to 24", (20, 24)),
        ("age_20", (20, 20)),
        ("Age_20_24", (20, 24)),
        ("ages 20-24", (20, 24)),
        ("00-04", (0, 4)),
        ("60+", (60, 69)),
        (" 20s ", (20, 29)),
        ("25s", None),
        ("29-20", None),
        ("2017", None),
        ("999+", None),
        ("male", None),
        ("", None),
        ("20-29-39", None),
    ],
)
def test_folder_names(name: str, years: tuple[int, int] | None) -> None:
    assert parse_group(name) == years


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["10", "20", "30"], {"10": (10, 19), "20": (20, 29), "30": (30, 39)}),
        (["10", "15", "notes"], {"10": (10, 14), "15": (15, 19)}),
        (["10", "20", "30+"], {"10": (10, 19), "20": (20, 29), "30+": (30, 39)}),
        (["10", "20", "age_20"], {"10": (10, 19), "20": (20, 29), "age_20": (20, 29)}),
        (["20"], {"20": (20, 29)}),
        (["23"], {"23": (23, 23)}),
        (["8-13", "35"], {"8-13": (8, 13), "35": (35, 35)}),
        (["0", "1", "2"], {"0": (0, 0), "1": (1, 1), "2": (2, 2)}),
        ([], {}),
    ],
)
def test_bare_numbers_last_until_the_next(names: list[str], groups: dict[str, tuple[int, int]]) -> None:
    assert parse_groups(names) == groups
