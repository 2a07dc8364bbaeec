"""The systems on offer: for each name, how its model and its data are built from the configuration."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cyclegan_age.ages import AgeCode
from cyclegan_age.config import AgeEstimatorConfig, CycleGANConfig, CycleGANPairConfig, TrainConfig, UserError
from cyclegan_age.data.batches import FaceData
from cyclegan_age.data.cache import PictureCache
from cyclegan_age.data.folders import scan, scan_pair
from cyclegan_age.models.age_estimator import AgeEstimatorModel, build_estimator
from cyclegan_age.models.base import Model
from cyclegan_age.models.cyclegan import CycleGAN
from cyclegan_age.models.cyclegan_pair import CycleGANPair
from cyclegan_age.networks.estimators import AgeEstimator
from cyclegan_age.runs import find_weights, load_snapshot

logger = logging.getLogger("cyclegan_age")


@dataclass(frozen=True)
class System:
    """One row of the table."""

    build: Callable[[TrainConfig, Any], Model]
    data: Callable[[TrainConfig, Any], FaceData]


def load_estimator(weights: str, config: TrainConfig) -> AgeEstimator:
    """A trained age estimator by file, run name or the name of a shipped one."""
    path = find_weights("", config.results_dir, weights)
    snapshot = load_snapshot(path if path.is_file() else find_weights(weights, config.results_dir))
    if not isinstance(snapshot.net, AgeEstimatorConfig):
        raise UserError(f"--estimators {weights}: weights of a {snapshot.train.model}; give those of an age_estimator")
    network = build_estimator(snapshot.net)
    network.load_state_dict(snapshot.network("estimator"))
    return network


def _cyclegan(config: TrainConfig, net: CycleGANConfig) -> Model:
    estimators = [load_estimator(w, config) for w in net.estimators] if net.lambda_age else []
    return CycleGAN(config=config, net=net, estimators=list(estimators))


def _age_data(config: TrainConfig, net: object) -> FaceData:
    folder = scan(config.dataroot, AgeCode(config.ages, config.age_vector))
    for reason, count in folder.left_out.items():
        logger.info("%s: %d pictures left out: %s", config.dataroot, count, reason)
    pools = [np.flatnonzero(folder.group == k) for k in range(len(config.ages))]
    return FaceData(
        cache=PictureCache(folder.paths, folder.root, config.load_size),
        age_years=folder.age_years,
        source_pools=pools,
        target_pools=pools,
        image_size=config.image_size,
        flip=config.flip,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def _pair_data(config: TrainConfig, net: CycleGANPairConfig) -> FaceData:
    a, b = scan_pair(config.dataroot, net.group_a, net.group_b)
    return FaceData(
        cache=PictureCache([*a, *b], config.dataroot, config.load_size),
        age_years=np.zeros(len(a) + len(b), np.float32),
        source_pools=[np.arange(len(a))],
        target_pools=[np.arange(len(a), len(a) + len(b))],
        image_size=config.image_size,
        flip=config.flip,
        batch_size=config.batch_size,
        seed=config.seed,
    )


SYSTEMS: dict[str, System] = {
    "cyclegan": System(_cyclegan, _age_data),
    "cyclegan_pair": System(lambda config, net: CycleGANPair(config=config, net=net), _pair_data),
    "age_estimator": System(lambda config, net: AgeEstimatorModel(net=net), _age_data),
}
