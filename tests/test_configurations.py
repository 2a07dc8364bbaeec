"""Weights whose configuration is not what it should be, as Hypothesis makes it up: one line, never a traceback."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cyclegan_age.config import UserError
from cyclegan_age.inference import Ager
from cyclegan_age.runs import SHIPPED

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@cache
def shipped(name: str) -> tuple[dict[str, Any], str, list[tuple[str, ...]]]:
    """Tensors, the name of the configuration in the file, and the ways to each of its values."""
    file = SHIPPED / f"{name}.safetensors"
    with safe_open(file, framework="pt") as opened:
        ((key, text),) = opened.metadata().items()
    plain = json.loads(text)
    ways = [(part, name) for part in ("train", "net") for name in plain[part]]
    return load_file(file) | {"": text}, key, [*ways, *((name,) for name in plain)]


FEW = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FEW
@given(data=st.data(), name=st.sampled_from(["gan", "cyclegan_pair", "pfa_gan"]), value=JSON, gone=st.booleans())
def test_any_configuration_loads_or_is_refused_in_one_line(
    tmp_path: Path, data: st.DataObject, name: str, value: object, gone: bool
) -> None:
    tensors, key, ways = shipped(name)
    plain = json.loads(str(tensors[""]))
    *above, last = data.draw(st.sampled_from(ways))
    part = plain[above[0]] if above else plain
    if gone:
        del part[last]
    else:
        part[last] = value
    file = tmp_path / "odd.safetensors"
    save_file({k: v for k, v in tensors.items() if k}, file, {key: json.dumps(plain)})
    try:
        ager = Ager.load(file)
        if name == "pfa_gan":
            ager.age(Image.new("RGB", (64, 64)), 60)
    except UserError as e:
        assert len(str(e).splitlines()) == 1
    except ValueError as e:  # of an age, or a number, that these weights do not take
        assert len(str(e).splitlines()) == 1
