"""What each model trains on: its pools of pictures, their labels, and the pictures held out of the training."""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cyclegan_age.ages import code_of
from cyclegan_age.config import (
    CAAEConfig,
    CycleGANConfig,
    CycleGANHeadsConfig,
    CycleGANPairConfig,
    FaceEmbedderConfig,
    FaceParserConfig,
    ModelConfig,
    TrainConfig,
    UserError,
)
from cyclegan_age.data.cache import PictureCache, Pictures
from cyclegan_age.data.draws import Draws, Pool, balanced
from cyclegan_age.data.face_data import FaceData
from cyclegan_age.data.folders import NO_GROUP, FaceFolder, describe, scan, scan_pair
from cyclegan_age.data.identities import Labelled, by_person, by_teacher, scan_people
from cyclegan_age.data.masks import MaskFolder, read_masks, scan_masks
from cyclegan_age.data.shards import open_pictures, refuse_shards, shown
from cyclegan_age.data.teacher import embeddings
from cyclegan_age.images import counted, to_float

_EAST_ASIAN = 2  # as UTKFace codes it, where Indian is apart

logger = logging.getLogger("cyclegan_age")


def _faces(config: TrainConfig) -> FaceFolder:
    code = code_of(config)
    folder = scan(config.dataroot, code, cache_gb=config.shard_cache)
    remedy = f"; choose other --ages than {' '.join(map(str, code.anchors))} to use them"
    for reason, count in folder.left_out.items():
        more = remedy if reason.startswith(NO_GROUP) else ""
        logger.info("%s: %s left out: %s%s", shown(config.dataroot), counted(count), reason, more)
    for line in describe(folder, code):
        logger.info("%s: %s", shown(config.dataroot), line)
    return folder


def _data(
    config: TrainConfig,
    cache: Pictures,
    age_years: NDArray[np.float32],
    pools: list[Pool],
    *,
    target_pools: list[Pool] | None = None,
    labels: NDArray[np.float32 | np.uint8] | None = None,
    paired: bool = False,
    held_out: Sequence[Pool] = (),
) -> FaceData:
    """Batches as a training wants them; see `Draws`. Targets come from the sources' pools where not said."""
    draws = Draws(
        cache=cache,
        age_years=age_years,
        source_pools=pools,
        target_pools=target_pools or pools,
        image_size=config.image_size,
        flip=config.flip,
        batch_size=config.batch_size,
        seed=config.seed,
        labels=labels,
        paired=paired,
    )
    return FaceData(draws, held_out=held_out)


def _by_age(
    config: TrainConfig,
    folder: FaceFolder,
    pools: list[Pool],
    *,
    labels: NDArray[np.float32] | None = None,
    held_out: Sequence[Pool] = (),
) -> FaceData:
    """The same of a folder of faces sorted by age."""
    cache = open_pictures(folder.paths, folder.root, config.load_size)
    return _data(config, cache, folder.age_years, pools, labels=labels, held_out=held_out)


def _groups(config: TrainConfig, folder: FaceFolder) -> list[Pool]:
    """Numbers of the pictures of each age group."""
    return [np.flatnonzero(folder.group == k) for k in range(len(config.ages))]


def cyclegan(config: TrainConfig, net: CycleGANConfig) -> FaceData:
    """Every age as often as any other; with `balance` each sex and race within an age, too. Labels are sexes."""
    folder = _faces(config)
    pools = _groups(config, folder)
    sex, race = (
        np.array(column, np.float32) for column in zip(*((k.sex, k.race) for k in folder.attributes), strict=True)
    )
    if net.balance:
        if np.isnan(sex).all():
            raise UserError(f"--balance: no file name in {config.dataroot} gives sex and race; use --no_balance")
        pools = balanced(pools, (np.nan_to_num(race, nan=5) * 3 + np.nan_to_num(sex, nan=2)).astype(np.int64))
    return _by_age(config, folder, pools, labels=sex[:, None] if net.sexes else None)


def cyclegan_heads(config: TrainConfig, net: CycleGANHeadsConfig) -> FaceData:
    """Every age as often as any other, and within an age half of the heads East Asian where there are others, too."""
    folder = _faces(config)
    asian = np.array([attributes.race == _EAST_ASIAN for attributes in folder.attributes])
    groups = _groups(config, folder)
    pools = [group[part[group]] for group in groups for part in (asian, ~asian)]
    sex = np.array([[attributes.sex] for attributes in folder.attributes], np.float32)
    return _by_age(config, folder, pools if all(map(len, pools)) else groups, labels=sex)


def _held_out(groups: list[Pool], config: TrainConfig) -> tuple[list[Pool], list[Pool]]:
    """What is left of each group once a random batch is held out, at most a tenth or one of each, and that batch."""
    share = -(-config.batch_size // len(groups))
    random = np.random.default_rng(config.seed)
    groups = [random.permutation(group) for group in groups]
    cuts = [min(share, max(1, len(group) // 10)) if len(group) > 1 else 0 for group in groups]
    both = list(zip(groups, cuts, strict=True))
    return [np.sort(group[cut:]) for group, cut in both], [group[:cut] for group, cut in both]


def age_groups(config: TrainConfig, net: ModelConfig) -> FaceData:
    """All faces but a random batch, which is held out."""
    folder = _faces(config)
    pools, held_out = _held_out(_groups(config, folder), config)
    return _by_age(config, folder, pools, held_out=held_out)


def caae(config: TrainConfig, net: CAAEConfig) -> FaceData:
    """A random batch is held out; with sexes the labels are those of the file names, and faces without one left out."""
    folder = _faces(config)
    sex = np.array([attributes.sex for attributes in folder.attributes], np.float32)
    usable = ~np.isnan(sex) if net.sexes else np.ones(len(sex), bool)
    groups = [group[usable[group]] for group in _groups(config, folder)]
    empty = [str(age) for age, group in zip(config.ages, groups, strict=True) if not len(group)]
    if empty:
        raise UserError(
            f"--dataroot {config.dataroot}: no file name gives the sex in the groups {', '.join(empty)}; "
            "name them age_sex_race_... (sex 0 male, 1 female), or give --no_sexes"
        )
    if net.sexes and len({*sex[usable].tolist()}) < 2:
        raise UserError(
            f"--dataroot {config.dataroot}: its file names give only one sex, and half of the labels would have no "
            "face; expected faces of both sexes, or --no_sexes"
        )
    if not usable.all():
        logger.info("%s: %d pictures left out: no sex in their name", config.dataroot, int((~usable).sum()))
    pools, held_out = _held_out(groups, config)
    return _by_age(config, folder, pools, labels=sex[:, None], held_out=held_out)


def cyclegan_pair(config: TrainConfig, net: CycleGANPairConfig) -> FaceData:
    """Pictures of both domains are held out, so that the sheets show both."""
    a, b = scan_pair(config.dataroot, net.group_a, net.group_b)
    for name, paths in (("A", a), ("B", b)):
        example = paths[len(paths) // 2].relative_to(config.dataroot)
        logger.info("%s: domain %s: %d pictures, as %s", config.dataroot, name, len(paths), example)
    pools, held_out = _held_out([np.arange(len(a)), np.arange(len(a), len(a) + len(b))], config)
    return _data(
        config,
        PictureCache([*a, *b], config.dataroot, config.load_size),
        np.zeros(len(a) + len(b), np.float32),
        pools[:1],
        target_pools=pools[1:],
        held_out=held_out,
    )


def _labelled(config: TrainConfig, net: FaceEmbedderConfig) -> Labelled:
    if net.teacher == "none":
        return by_person(scan_people(config.dataroot))
    refuse_shards(config.dataroot, "--teacher")
    folder = scan(config.dataroot, code_of(config), every_group=False)
    return by_teacher(folder, embeddings(folder.paths, folder.root))


def held_out_people(config: TrainConfig, net: FaceEmbedderConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The faces that `face_embedder` leaves for tests.

    Returns:
        Pictures (M, 3, S, S) in [-1, 1], labels (M, L), and ages (M,) in years, NaN where not known.

    Raises:
        UserError: fewer than two of the files can be used.
    """
    faces = _labelled(config, net)
    cache = PictureCache([faces.paths[i] for i in faces.held_out], faces.root, config.load_size)
    x, used = _usable(config, cache, range(len(cache)), at_least=2)
    numbers = faces.held_out[used]
    return x, torch.from_numpy(faces.labels[numbers]), torch.from_numpy(faces.age_years[numbers])


def _usable(config: TrainConfig, cache: Pictures, numbers: Iterable[int], at_least: int) -> tuple[Tensor, list[int]]:
    """The middles of the pictures that can be read, (M, 3, S, S) in [-1, 1], and which of the numbers they are."""
    margin = config.load_size - config.image_size
    middle = slice(margin // 2, margin // 2 + config.image_size)
    pictures = {i: picture[middle, middle] for i in numbers if (picture := cache.get(i)) is not None}
    if len(pictures) < at_least:
        raise UserError(f"--dataroot {config.dataroot}: of the pictures to test on, none can be used; replace them")
    return to_float(np.stack(list(pictures.values()))), list(pictures)


def face_embedder(config: TrainConfig, net: FaceEmbedderConfig) -> FaceData:
    """Pairs of pictures of one person, or single pictures with a teacher's embedding; see `held_out_people`."""
    faces = _labelled(config, net)
    kinds, example = "persons" if net.teacher == "none" else "age groups", faces.paths[len(faces.paths) // 2]
    logger.info(
        "%s: %d pictures of %d %s to learn from, and %d to test on, as %s",
        *(config.dataroot, sum(map(len, faces.pools)), len(faces.pools), kinds, len(faces.held_out)),
        example.relative_to(config.dataroot),
    )
    return _data(
        config,
        PictureCache(faces.paths, faces.root, config.load_size),
        faces.age_years,
        faces.pools,
        labels=faces.labels,
        paired=net.teacher == "none",
    )


def _masked(config: TrainConfig) -> tuple[MaskFolder, PictureCache, Pool]:
    """Pictures with masks, and numbers of those held out: every tenth, at most 100."""
    whole = config.load_size == config.image_size and not config.flip
    if not whole:  # crops and mirroring would part pictures from their masks
        raise UserError("--load_size and --flip: must be the --image_size and --no_flip; masks are for whole pictures")
    folder = scan_masks(config.dataroot)
    if folder.left_out:
        logger.info("%s: %s left out: no mask", config.dataroot, counted(folder.left_out))
    cache = PictureCache(folder.pictures, folder.root, config.load_size)
    return folder, cache, np.arange(0, len(cache), max(10, len(cache) // 100))


def held_out_masks(config: TrainConfig) -> tuple[Tensor, Tensor]:
    """The heads that `face_parser` leaves for tests.

    Returns:
        Pictures (M, 3, S, S) in [-1, 1], and masks (M, S, S) int64, numbers of `networks.parsers.PARTS`.

    Raises:
        UserError: none of the files can be used.
    """
    folder, cache, held_out = _masked(config)
    x, used = _usable(config, cache, held_out.tolist(), at_least=1)
    return x, torch.from_numpy(read_masks([folder.masks[i] for i in used], config.load_size)).long()


def face_parser(config: TrainConfig, net: FaceParserConfig) -> FaceData:
    """Heads with their masks as labels (N, S * S); see `held_out_masks`."""
    folder, cache, held = _masked(config)
    return _data(
        config,
        cache,
        np.zeros(len(cache), np.float32),
        [np.setdiff1d(np.arange(len(cache)), held)],
        labels=read_masks(folder.masks, config.load_size).reshape(len(cache), -1),
        held_out=[held[:16]],
    )
