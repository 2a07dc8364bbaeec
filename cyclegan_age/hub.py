"""Weights in the format of the Hugging Face Hub: a folder with `model.safetensors`, `config.json` and a model card."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cyclegan_age.config import UserError, needs
from cyclegan_age.files import write_atomically
from cyclegan_age.models import SYSTEMS
from cyclegan_age.runs import SHIPPED, weights_name
from cyclegan_age.weight_files import Weights, load_weights, settings

LIBRARY = "cyclegan-age"
_FILES = "model.safetensors", "weights.safetensors"  # of the Hub, and of a run
_FROM_NOISE = {"gan", "cgan"}
_CARD = Template("""---
library_name: $library
pipeline_tag: $pipeline
license: $license
${license_name}tags:
${tag}- $model
${datasets}---

# $name

Weights of the model `$model` of [$library](https://pypi.org/project/$library/): $what, after $images pictures of
training. The configuration is in `config.json` and in the weights themselves.

```python
from cyclegan_age.inference import Ager

$use
```

The outputs are synthetic renderings, not predictions of anybody's looks. Do not use them to identify, judge or decide
about anybody, and ask people before you age their face.
""")
_USE = """ager = Ager.from_pretrained("$repo")
ager.age_photo("me.jpg", years=50).save("me-at-50.png")"""
_USE_DOMAINS = """ager = Ager.from_pretrained("$repo")
ager.age("picture.jpg", 0).save("translated.png")  # to domain number 0"""
_USE_NOISE = """ager = Ager.from_pretrained("$repo")
ager.render(ager.sample(8), [30] * 8)  # uint8 (8, S, S, 3)"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """The parts of a model card that the weights do not contain.

    Attributes:
        license: an identifier of the Hub, such as `mit` or `other`.
        license_name: its name, if it is `other`.
        datasets: names of data sets of the training.
    """

    license: str = "other"
    license_name: str = ""
    datasets: Sequence[str] = ()


_OF_SHIPPED = Card(license_name="non-commercial-research-only", datasets=("UTKFace", "All-Age-Faces"))


def fetched(source: Path | str, revision: str | None = None) -> Path:
    """The weights of a source.

    Args:
        source: a file; a folder of `write_folder` or of a run; or else the id of a repository of the Hub, whose files
            are then in the Hub's cache.
        revision: branch, tag or commit of the repository.
        revision: branch, tag or commit of the repository.

    Raises:
        UserError: no weights there; huggingface_hub is not installed, or the repository cannot be read.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        for name in _FILES:
            if (path / name).is_file():
                return path / name
        raise UserError(
            f"{source}: no {' or '.join(_FILES)} in this folder; expected a folder written by save_pretrained"
        )
    with needs("huggingface_hub"):
        import huggingface_hub
    with _errors(f"{source}: neither a file nor a folder, and not read from the Hub"):
        huggingface_hub.hf_hub_download(str(source), "config.json", revision=revision)  # the Hub counts these downloads
        return Path(huggingface_hub.hf_hub_download(str(source), _FILES[0], revision=revision))


def write_folder(weights: Path, folder: Path, card: Card | None = None, *, repo: str = "") -> None:
    """Write the files of a Hub repository.

    Args:
        weights: of any model.
        folder: created if needed; other files in it stay.
        card: of the model card; by default that of the shipped weights, or of unknown terms.
        repo: id of the repository, for the card.

    Raises:
        UserError: the weights cannot be read, or the folder cannot be written.
    """
    loaded = load_weights(weights)
    card = card or (_OF_SHIPPED if weights.resolve().parent == SHIPPED else Card())
    name = weights_name(weights)
    try:
        write_atomically(folder / _FILES[0], weights.read_bytes())
        write_atomically(folder / "config.json", (json.dumps(_config(loaded), indent=2) + "\n").encode())
        write_atomically(folder / "README.md", _readme(loaded, name, repo or str(folder.name), card).encode())
    except OSError as e:
        raise UserError(f"{folder}: cannot be written ({e.strerror or e}); choose another folder") from e


def push(weights: Path, repo: str, card: Card | None = None, *, private: bool = False, token: str | None = None) -> str:
    """Upload the files of `write_folder` to a repository of the Hub, created if needed; returns its address.

    Raises:
        UserError: huggingface_hub is not installed, or the Hub refuses.
    """
    with needs("huggingface_hub"):
        from huggingface_hub import HfApi
    with tempfile.TemporaryDirectory(prefix="cyclegan-age-") as temporary:
        write_folder(weights, Path(temporary), card, repo=repo)
        with _errors(f"{repo}: not uploaded"):
            api = HfApi(token=token)
            address = str(api.create_repo(repo, private=private, exist_ok=True))
            api.upload_folder(repo_id=repo, folder_path=temporary, commit_message=f"Weights of {LIBRARY}")
    return address


@contextmanager
def _errors(before: str) -> Iterator[None]:
    """Convert errors of huggingface_hub, of the network, permissions or name, into one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.errors import LocalEntryNotFoundError as NotKept

    try:
        yield
    except NotKept:
        raise UserError(f"{before} (no network, and not in the cache); download it on a machine with network") from None
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as e:
        cause = (str(e).splitlines() or [type(e).__name__])[0].rstrip(".")
        raise UserError(f"{before} ({cause}); check the name, and `hf auth login`") from None


def _config(weights: Weights) -> dict[str, object]:
    """config.json: some facts, then all settings except names of places."""
    train = weights.train
    plain = settings(train, weights.net)
    for place in ("dataroot", "results_dir", "init", "init_average", "name"):
        del plain["train"][place]
    facts = {"model_type": train.model, "library_name": LIBRARY, "image_size": train.image_size}
    return {**facts, "ages": list(train.ages), "frame": train.frame, "images_seen": weights.images_seen, **plain}


def _readme(weights: Weights, name: str, repo: str, card: Card) -> str:
    train = weights.train
    noise = train.model in _FROM_NOISE
    renderer = SYSTEMS[train.model].renderer
    domains = renderer(weights).domains if renderer else ()
    use = _USE_DOMAINS if domains else _USE_NOISE if noise else _USE
    ages = f"faces at the ages {', '.join(map(str, train.ages))}, {train.image_size} px, frame `{train.frame}`"
    return _CARD.substitute(
        library=LIBRARY,
        pipeline="unconditional-image-generation" if noise else "image-to-image",
        license=card.license,
        license_name=f"license_name: {card.license_name}\n" if card.license_name else "",
        model=train.model,
        datasets="datasets:\n" + "".join(f"- {json.dumps(one)}\n" for one in card.datasets) if card.datasets else "",
        name=name,
        tag="" if domains else "- face-aging\n",
        what=f"pictures of {train.image_size} px translated to {', '.join(domains)}" if domains else ages,
        images=f"{weights.images_seen:,}",
        use=Template(use).substitute(repo=repo),
    )
