"""The systems on offer: for each name, how its model and its data are built from the configuration."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cyclegan_age.ages import code_of
from cyclegan_age.config import (
    AgeCGANConfig,
    AgeEstimatorConfig,
    CAAEConfig,
    CycleGANConfig,
    CycleGANHeadsConfig,
    CycleGANPairConfig,
    EncoderCDCGANConfig,
    FaceEmbedderConfig,
    FaceParserConfig,
    PFAGANConfig,
    TrainConfig,
    UserError,
)
from cyclegan_age.data.batches import FaceData, Pool, balanced
from cyclegan_age.data.cache import PictureCache, Pictures
from cyclegan_age.data.folders import NO_GROUP, FaceFolder, describe, scan, scan_pair
from cyclegan_age.data.identities import Labelled, by_person, by_teacher, scan_people
from cyclegan_age.data.masks import MaskFolder, read_masks, scan_masks
from cyclegan_age.data.shards import open_pictures, refuse_shards, shown
from cyclegan_age.data.teacher import embeddings
from cyclegan_age.faces.frames import Frame, window
from cyclegan_age.images import counted, to_float
from cyclegan_age.models import (
    age_cgan,
    caae,
    cgan,
    cyclegan,
    cyclegan_heads,
    cyclegan_pair,
    encoder_cdcgan,
    face_parser,
    gan,
    pfa_gan,
)
from cyclegan_age.models.age_cgan import AgeCGAN
from cyclegan_age.models.age_estimator import AgeEstimatorModel, build_estimator
from cyclegan_age.models.base import Model, Renderer
from cyclegan_age.models.caae import CAAE
from cyclegan_age.models.cgan import CGAN
from cyclegan_age.models.cyclegan import CycleGAN
from cyclegan_age.models.cyclegan_heads import CycleGANHeads
from cyclegan_age.models.cyclegan_pair import CycleGANPair
from cyclegan_age.models.encoder_cdcgan import EncoderCDCGAN
from cyclegan_age.models.face_embedder import FaceEmbedderModel, HeldOut, build_embedder
from cyclegan_age.models.face_parser import FaceParserModel, build_parser
from cyclegan_age.models.gan import GAN
from cyclegan_age.models.pfa_gan import PFAGAN, Judges
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.estimators import AgeEstimator
from cyclegan_age.networks.parsers import FaceParser
from cyclegan_age.runs import Snapshot, find_weights, load_snapshot

_EAST_ASIAN = 2  # as UTKFace codes it, where Indian is apart

logger = logging.getLogger("cyclegan_age")

Net = TypeVar("Net", AgeEstimatorConfig, FaceEmbedderConfig)


@dataclass(frozen=True)
class System:
    """One row of the table."""

    build: Callable[[TrainConfig, Any], Model]
    data: Callable[[TrainConfig, Any], FaceData]
    renderer: Callable[[Snapshot], Renderer] | None = None  # None for a model that renders no faces


def _trained(weights: str, config: TrainConfig, flag: str, model: str) -> Snapshot:
    """Trained weights by file, run name or the name of shipped ones; an error names the `flag` that gave them."""
    path = find_weights("", config.results_dir, weights)
    try:
        return load_snapshot(path if path.is_file() else find_weights(weights, config.results_dir))
    except UserError as e:
        text = str(e).replace("--weights", flag, 1)
        raise UserError(f"{text}, or train one by --model {model}") from None


def _of_frame(net: Net, own: str, frame: str, flag: str) -> Net:
    """The configuration of a network of faces in its own frame that is shown pictures of another one.

    Raises:
        UserError: these do not show all that it looks at.
    """
    if not frame or frame == own:
        return net
    left, top, side = window(Frame.of(own), Frame.of(frame))
    if net.window:
        left, top, side = left + side * net.window[0], top + side * net.window[1], side * net.window[2]
    try:
        return replace(net, window=(left, top, side))
    except UserError:
        remedy = f"give weights trained with --frame {frame}"
        raise UserError(f"{flag}: looks at more ({own}) than the frame {frame} shows; {remedy}") from None


def load_estimator(weights: str, config: TrainConfig, frame: str = "") -> AgeEstimator:
    """A trained age estimator by file, run name or the name of a shipped one.

    Args:
        weights: which.
        config: its `results_dir` is where runs are.
        frame: of the pictures that it is shown, by default its own; of larger ones it looks at its part.
    """
    return trained_estimator(weights, config, frame)[0]


def trained_estimator(weights: str, config: TrainConfig, frame: str = "") -> tuple[AgeEstimator, AgeEstimatorConfig]:
    """As `load_estimator`, and the network's configuration."""
    snapshot = _trained(weights, config, "--estimators", "age_estimator")
    if not isinstance(snapshot.net, AgeEstimatorConfig):
        raise UserError(f"--estimators {weights}: weights of a {snapshot.train.model}; give those of an age_estimator")
    net = _of_frame(snapshot.net, snapshot.train.frame, frame, f"--estimators {weights}")
    network = build_estimator(net)
    network.load_state_dict(snapshot.network("estimator"))
    return network, net


def load_embedder(weights: str, config: TrainConfig, frame: str = "") -> FaceEmbedder:
    """A trained face embedder in eval mode; arguments as of `load_estimator`."""
    return _embedder(weights, config, frame)[0]


def _embedder(weights: str, config: TrainConfig, frame: str = "") -> tuple[FaceEmbedder, FaceEmbedderConfig]:
    snapshot = _trained(weights, config, "--embedder", "face_embedder")
    if not isinstance(snapshot.net, FaceEmbedderConfig):
        raise UserError(f"--embedder {weights}: weights of a {snapshot.train.model}; give those of a face_embedder")
    net = _of_frame(snapshot.net, snapshot.train.frame, frame, f"--embedder {weights}")
    network = build_embedder(net)
    network.load_state_dict(snapshot.network("embedder"))
    return network.eval(), net


def load_parser(weights: str, config: TrainConfig) -> FaceParser:
    """A trained face parser by file, run name or the name of a shipped one, in eval mode, batch norms fused."""
    snapshot = _trained(weights, config, "--parser", "face_parser")
    if not isinstance(snapshot.net, FaceParserConfig):
        raise UserError(f"--parser {weights}: weights of a {snapshot.train.model}; give those of a face_parser")
    network = build_parser(snapshot.net)
    network.load_state_dict(snapshot.network("parser"))
    network.eval().fuse()
    return network


def _cyclegan(config: TrainConfig, net: CycleGANConfig) -> Model:
    estimators = [load_estimator(w, config, config.frame) for w in net.estimators] if net.lambda_age else []
    embedder = load_embedder(net.embedder, config, config.frame) if net.lambda_embedding else None
    return CycleGAN(config=config, net=net, estimators=estimators, embedder=embedder)


def _heads(config: TrainConfig, net: CycleGANHeadsConfig) -> Model:
    return CycleGANHeads(
        config=config,
        net=net,
        parser=load_parser(net.parser, config),
        estimators=[load_estimator(w, config) for w in net.estimators] if net.lambda_age else [],
        embedder=load_embedder(net.embedder, config),
    )


def _faces(config: TrainConfig) -> FaceFolder:
    code = code_of(config)
    folder = scan(config.dataroot, code, cache_gb=config.shard_cache)
    remedy = f"; give other --ages than {' '.join(map(str, code.anchors))} to use them"
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
    """Batches as a training wants them; see `FaceData`. Targets come from the sources' pools where not said."""
    return FaceData(
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
        held_out=held_out,
    )


def _cyclegan_data(config: TrainConfig, net: CycleGANConfig) -> FaceData:
    folder = _faces(config)
    pools = [np.flatnonzero(folder.group == k) for k in range(len(config.ages))]
    known = folder.known
    sex, race = (np.array(column, np.float32) for column in ([k.sex for k in known], [k.race for k in known]))
    if net.balance:
        if np.isnan(sex).all():
            raise UserError(f"--balance: no file name in {config.dataroot} tells a sex and a race; leave it out")
        pools = balanced(pools, (np.nan_to_num(race, nan=5) * 3 + np.nan_to_num(sex, nan=2)).astype(np.int64))
    cache = open_pictures(folder.paths, folder.root, config.load_size)
    return _data(config, cache, folder.age_years, pools, labels=sex[:, None] if net.sexes else None)


def _heads_data(config: TrainConfig, net: CycleGANHeadsConfig) -> FaceData:
    """Every age as often as any other, and within an age half of the heads East Asian where there are others, too."""
    folder = _faces(config)
    known = folder.known
    asian = np.array([k.race == _EAST_ASIAN for k in known])
    groups = [folder.group == k for k in range(len(config.ages))]
    pools = [np.flatnonzero(group & part) for group in groups for part in (asian, ~asian)]
    if not all(len(pool) for pool in pools):
        pools = [np.flatnonzero(group) for group in groups]
    sex = np.array([[k.sex] for k in known], np.float32)
    cache = open_pictures(folder.paths, folder.root, config.load_size)
    return _data(config, cache, folder.age_years, pools, labels=sex)


def _held_out(groups: list[Pool], config: TrainConfig) -> tuple[list[Pool], list[Pool]]:
    """What is left of each group once a random batch is held out, at most a tenth or one of each, and that batch."""
    share = -(-config.batch_size // len(groups))
    random = np.random.default_rng(config.seed)
    groups = [random.permutation(group) for group in groups]
    cuts = [min(share, max(1, len(group) // 10)) if len(group) > 1 else 0 for group in groups]
    both = list(zip(groups, cuts, strict=True))
    return [np.sort(group[cut:]) for group, cut in both], [group[:cut] for group, cut in both]


def _age_data(config: TrainConfig, net: object) -> FaceData:
    """All faces but a random batch, which is held out."""
    folder = _faces(config)
    pools, held_out = _held_out([np.flatnonzero(folder.group == k) for k in range(len(config.ages))], config)
    return _data(
        config, open_pictures(folder.paths, folder.root, config.load_size), folder.age_years, pools, held_out=held_out
    )


def _caae_data(config: TrainConfig, net: CAAEConfig) -> FaceData:
    """A random batch is held out; with sexes the labels are those of the file names, and faces without one left out."""
    folder = _faces(config)
    sex = np.array([known.sex for known in folder.known], np.float32)
    usable = ~np.isnan(sex) if net.sexes else np.ones(len(sex), bool)
    groups = [np.flatnonzero((folder.group == k) & usable) for k in range(len(config.ages))]
    empty = [str(age) for age, group in zip(config.ages, groups, strict=True) if not len(group)]
    if empty:
        raise UserError(
            f"--dataroot {config.dataroot}: no file name tells the sex in the groups {', '.join(empty)}; "
            "name them age_sex_race_... (sex 0 male, 1 female), or give --no_sexes"
        )
    if net.sexes and len({*sex[usable].tolist()}) < 2:
        raise UserError(
            f"--dataroot {config.dataroot}: its file names tell one sex alone, and half of the labels would have no "
            "face; give --no_sexes, or a folder of both"
        )
    if not usable.all():
        logger.info("%s: %d pictures left out: no sex in their name", config.dataroot, int((~usable).sum()))
    pools, held_out = _held_out(groups, config)
    return _data(
        config,
        open_pictures(folder.paths, folder.root, config.load_size),
        folder.age_years,
        pools,
        labels=sex[:, None],
        held_out=held_out,
    )


def _pair_data(config: TrainConfig, net: CycleGANPairConfig) -> FaceData:
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


def _face_embedder(config: TrainConfig, net: FaceEmbedderConfig) -> Model:
    faces = _labelled(config, net)
    cache = PictureCache([faces.paths[i] for i in faces.held_out], faces.root, config.load_size)
    edge = (config.load_size - config.image_size) // 2
    middle = slice(edge, edge + config.image_size)
    pictures = {int(i): p[middle, middle] for k, i in enumerate(faces.held_out) if (p := cache.get(k)) is not None}
    if len(pictures) < 2:
        raise UserError(f"--dataroot {config.dataroot}: of the pictures to test on, none can be used; replace them")
    kept, x = list(pictures), to_float(np.stack(list(pictures.values())))
    held_out = HeldOut(x, torch.from_numpy(faces.labels[kept]), torch.from_numpy(faces.age_years[kept]))
    return FaceEmbedderModel(net=net, held_out=held_out)


def _embedder_data(config: TrainConfig, net: FaceEmbedderConfig) -> FaceData:
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
        raise UserError("--load_size and --flip: the masks fit whole pictures; give --image_size's, and --no_flip")
    folder = scan_masks(config.dataroot)
    if folder.left_out:
        logger.info("%s: %s left out: no mask", config.dataroot, counted(folder.left_out))
    cache = PictureCache(folder.pictures, folder.root, config.load_size)
    return folder, cache, np.arange(0, len(cache), max(10, len(cache) // 100))


def _face_parser(config: TrainConfig, net: FaceParserConfig) -> Model:
    folder, cache, held = _masked(config)
    pictures = {int(i): p for i in held if (p := cache.get(int(i))) is not None}
    if not pictures:
        raise UserError(f"--dataroot {config.dataroot}: of the pictures to test on, none can be used; replace them")
    masks = read_masks([folder.masks[i] for i in pictures], config.load_size)
    held_out = face_parser.HeldOut(to_float(np.stack(list(pictures.values()))), torch.from_numpy(masks).long())
    return FaceParserModel(net=net, held_out=held_out)


def _parser_data(config: TrainConfig, net: FaceParserConfig) -> FaceData:
    folder, cache, held = _masked(config)
    return _data(
        config,
        cache,
        np.zeros(len(cache), np.float32),
        [np.setdiff1d(np.arange(len(cache)), held)],
        labels=read_masks(folder.masks, config.load_size).reshape(len(cache), -1),
        held_out=[held[:16]],
    )


def _pfa_gan(config: TrainConfig, net: PFAGANConfig) -> Model:
    estimators = [load_estimator(w, config, config.frame) for w in net.estimators] if net.lambda_age else []
    embedder = load_embedder(net.embedder, config, config.frame) if net.embedder else None
    return PFAGAN(config=config, net=net, judges=Judges(estimators=estimators, embedder=embedder))


def _caae(config: TrainConfig, net: CAAEConfig) -> Model:
    embedder = load_embedder(net.embedder, config, config.frame) if net.lambda_identity else None
    return CAAE(config=config, net=net, embedder=embedder)


def _encoder_cdcgan(config: TrainConfig, net: EncoderCDCGANConfig) -> Model:
    embedder = load_embedder(net.embedder, config, config.frame) if net.lambda_identity else None
    return EncoderCDCGAN(config=config, net=net, embedder=embedder)


def _age_cgan(config: TrainConfig, net: AgeCGANConfig) -> Model:
    embedder, of_embedder = _embedder(net.embedder, config, config.frame)
    return AgeCGAN(config=config, net=net, embedder=embedder, of_embedder=of_embedder)


SYSTEMS: dict[str, System] = {
    "cyclegan": System(_cyclegan, _cyclegan_data, cyclegan.renderer),
    "cyclegan_pair": System(
        lambda config, net: CycleGANPair(config=config, net=net), _pair_data, cyclegan_pair.renderer
    ),
    "cyclegan_heads": System(_heads, _heads_data, cyclegan_heads.renderer),
    "age_estimator": System(lambda config, net: AgeEstimatorModel(net=net), _age_data),
    "face_embedder": System(_face_embedder, _embedder_data),
    "pfa_gan": System(
        _pfa_gan, _age_data, lambda s: pfa_gan.renderer(s, load_estimator("age_loss_a", s.train, s.train.frame))
    ),
    "face_parser": System(_face_parser, _parser_data),
    "caae": System(_caae, _caae_data, caae.renderer),
    "gan": System(lambda config, net: GAN(config=config, net=net), _age_data, gan.renderer),
    "cgan": System(lambda config, net: CGAN(config=config, net=net), _age_data, cgan.renderer),
    "encoder_cdcgan": System(_encoder_cdcgan, _age_data, encoder_cdcgan.renderer),
    "age_cgan": System(_age_cgan, _age_data, age_cgan.renderer),
}
