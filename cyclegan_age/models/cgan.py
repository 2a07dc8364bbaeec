"""Conditional GAN: faces of a chosen age from noise, 64 x 64 pixels.

After Mirza and Osindero, "Conditional Generative Adversarial Nets" (2014), in the form of the AI2100 project report
(Nandi et al., 2022; preset `nandi`), whose tables give the layers and whose remedies against a discriminator that wins
are options here (see `adversary`). Where it departs from the report:

- The report does not name the length of the noise; it is 100.
- The preset `default` has the networks and remedies of the one of `gan`, the label joining by projection, and any
  ages: a label between two anchors is their interpolation.
- Fakes are made for the ages of another draw of faces, not for those of the real ones beside them.
- Batches are balanced over the age groups.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cyclegan_age.ages import AgeCode, code_of
from cyclegan_age.config import CGANConfig, NoiseConfig, TrainConfig
from cyclegan_age.data.batches import Batch
from cyclegan_age.features import maps_by_age
from cyclegan_age.models.adversary import Duel, drawn, feature_judge, held_out, play, wrong_ages
from cyclegan_age.models.base import Losses, Renderer
from cyclegan_age.models.gan import NoiseReader, build_discriminator, build_generator
from cyclegan_age.runs import Snapshot


def renderer(snapshot: Snapshot) -> Renderer:
    """The generator of a snapshot."""
    assert isinstance(snapshot.net, CGANConfig)
    generator = build_generator(snapshot.train, snapshot.net, labels=len(snapshot.train.ages))
    generator.load_state_dict(snapshot.network("generator"))
    return Renderer(generator=generator, code=code_of(snapshot.train), reader=NoiseReader(net=snapshot.net))


class CGAN(Duel):
    """Networks and phases `generator` and `discriminator`."""

    def __init__(self, *, config: TrainConfig, net: CGANConfig) -> None:
        self.net = net
        ages = len(config.ages)
        self.generator = build_generator(config, net, labels=ages)
        self.discriminator = build_discriminator(config, net, labels=ages, label_at=net.label_at)
        super().__init__(config, net, self.generator, self.discriminator, feature_judge(config, net, heads=ages))

    def losses(self, batch: Batch, progress: Tensor, resting: frozenset[str]) -> Losses:
        yield from play(
            self.generator,
            self.discriminator,
            self.net,
            batch.x_source,
            judge=self.judge,
            label_real=self.code.encode(batch.age_source),
            label_fake=self.code.encode(batch.age_target),
            label_wrong=wrong_ages(self.code, batch.age_source),
            resting="discriminator" in resting,
        )

    def samples(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, Tensor]:
        return {"source": x, **made_by_age(networks["generator"], self.net, self.code, x)}

    def feature_maps(
        self, networks: Mapping[str, nn.Module], x: Tensor, layers: Sequence[str]
    ) -> dict[str, dict[str, Tensor]]:
        z = drawn(self.net, 1, torch.Generator().manual_seed(0)).to(x.device)
        return maps_by_age(networks["generator"], z, self.code, layers)

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        return held_out(self.discriminator, self.net, x, self.code.encode(age_years))


def made_by_age(generator: nn.Module, net: NoiseConfig, code: AgeCode, like: Tensor) -> dict[str, Tensor]:
    """Columns of a sheet: for each anchor age as many faces as `like` has, from the same noise each time."""
    z = drawn(net, len(like), torch.Generator().manual_seed(0)).to(like.device)
    return by_age(generator, code, z)


def by_age(generator: nn.Module, code: AgeCode, kept: Tensor) -> dict[str, Tensor]:
    """Columns of a sheet: what is kept of faces (N, ...), at each anchor age."""
    vectors = torch.eye(len(code), device=kept.device)
    return {
        f"{years:g}": generator(kept, vector.expand(len(kept), -1))
        for years, vector in zip(code.nominal_years, vectors, strict=True)
    }
