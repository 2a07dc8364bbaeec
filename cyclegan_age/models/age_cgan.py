"""Age-cGAN: a conditional GAN, an encoder for a first latent vector, and its optimisation for a face's identity.

After Antipov et al., "Face Aging with Conditional Generative Adversarial Networks" (ICIP 2017), as the AI2100 project
report (Nandi et al., 2022; preset `nandi`) describes it. Its three stages:

1. The conditional GAN, and 2. the encoder, E, trained on what the GAN makes: one training of `encoder_cdcgan`'s kind.
3. The face recogniser, FR, is a `face_embedder`, trained before and put into the weights.

A face x of age y0 then has the first latent vector z0 = E(x). From there z* = argmin_z |FR(x) - FR(G(z, y0))|, by so
many steps of Adam (or L-BFGS); G(z*, y) is the face at age y. Where it departs from the paper and the report:

- The best vector on the way is kept, so that the distance never grows. The paper's optimiser is L-BFGS-B.
- Where a face's age is not known, y0 is the anchor age at which G(z0, y0) is nearest to it, by FR.
- FR is this package's embedder instead of OpenFace or FaceNet.
- In the preset `default` the first two stages are one (`joint`, see `encoder_cdcgan`).
- The channels of the encoder, which the report leaves open, are narrower than the paper's, and it has no hidden layer.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cyclegan_age.ages import AgeCode, code_of
from cyclegan_age.attributes import FaceAttributes
from cyclegan_age.config import AgeCGANConfig, FaceEmbedderConfig, TrainConfig
from cyclegan_age.data import recipes
from cyclegan_age.data.batches import Batch
from cyclegan_age.models.adversary import sample_latents
from cyclegan_age.models.base import Encoding, FaceEncoder, Losses, Model, Renderer, System, age_and_sex
from cyclegan_age.models.encoder_cdcgan import EncoderCDCGAN, load_networks
from cyclegan_age.models.face_embedder import build_embedder
from cyclegan_age.models.pretrained import trained_embedder
from cyclegan_age.networks.embedders import FaceEmbedder
from cyclegan_age.networks.latent import Encoder, NoiseGenerator
from cyclegan_age.networks.residual import ResidualGenerator
from cyclegan_age.weight_files import Weights


class IdentityEncoder(FaceEncoder):
    """The latent vector whose face, at the own age, is nearest to the given one by a face embedder.

    Its measures are the distances (0 to 2) before and after the optimisation.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        generator: NoiseGenerator | ResidualGenerator,
        embedder: FaceEmbedder,
        code: AgeCode,
        net: AgeCGANConfig,
    ) -> None:
        super().__init__()
        self.encoder, self.generator, self.embedder = encoder, generator, embedder
        self.code, self.net = code, net
        self.latent_size = net.z

    def encode(self, x: Tensor, attributes: Sequence[FaceAttributes]) -> Encoding:
        z_first, identity = self.encoder(x), self.embedder(x)
        age = self._own_age(z_first, identity, age_and_sex(attributes, x.device)[0])
        before = self.distance(z_first, age, identity)
        if not self.net.latent_steps:
            return Encoding(z_first, {"identity_distance_before": before, "identity_distance_after": before})
        if self.net.latent_optimizer == "lbfgs":  # its line search is for one face
            parts = zip(z_first.split(1), age.split(1), identity.split(1), strict=True)
            z, after = (torch.cat(column) for column in zip(*(self._nearest(*p) for p in parts), strict=True))
        else:
            z, after = self._nearest(z_first, age, identity)
        return Encoding(z, {"identity_distance_before": before, "identity_distance_after": after})

    def sample(self, count: int, random: torch.Generator) -> Tensor:
        return sample_latents(self.net, count, random)

    def distance(self, z: Tensor, age: Tensor, identity: Tensor) -> Tensor:
        """|FR(x) - FR(G(z, age))| (N,) for the embeddings `identity` (N, D) of faces x."""
        made: Tensor = self.embedder(self.generator(z, age))
        apart: Tensor = torch.linalg.vector_norm(made - identity, dim=1)
        return apart

    def _own_age(self, z: Tensor, identity: Tensor, age_years: Tensor) -> Tensor:
        anchors = torch.eye(len(self.code), device=z.device)
        far = torch.stack([self.distance(z, v.expand(len(z), -1), identity) for v in anchors])  # (K, N)
        guess = anchors[far.argmin(dim=0)]
        known = self.code.encode(age_years.nan_to_num(0.0))
        return torch.where(age_years.isnan()[:, None], guess, known)

    @torch.enable_grad()
    def _nearest(self, z_first: Tensor, age: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
        """The best latent vectors (N, z) that so many steps from the first ones find, and their distances (N,)."""
        z = z_first.clone().requires_grad_()
        best, best_distance = z_first, self.distance(z_first, age, identity).detach()

        def step() -> Tensor:
            nonlocal best, best_distance
            distance = self.distance(z, age, identity)
            nearer = distance.detach() < best_distance
            best = torch.where(nearer[:, None], z.detach(), best)
            best_distance = torch.where(nearer, distance.detach(), best_distance)
            (z.grad,) = torch.autograd.grad(distance.sum(), z)
            return distance.sum().detach()

        if self.net.latent_optimizer == "lbfgs":
            torch.optim.LBFGS(
                [z], lr=self.net.latent_rate, max_iter=self.net.latent_steps, line_search_fn="strong_wolfe"
            ).step(step)
        else:
            adam = torch.optim.Adam([z], lr=self.net.latent_rate)
            for _ in range(self.net.latent_steps):
                step()
                adam.step()
        step()
        return best, best_distance


def renderer(weights: Weights) -> Renderer:
    """The generator, the encoder and the embedder of a weights file."""
    net, of_embedder = weights.net, weights.parts["embedder"]
    assert isinstance(net, AgeCGANConfig) and isinstance(of_embedder, FaceEmbedderConfig)
    generator, encoder = load_networks(weights)
    embedder = weights.load_into(build_embedder(of_embedder), "embedder")
    code = code_of(weights.train)
    face_encoder = IdentityEncoder(encoder=encoder, generator=generator, embedder=embedder, code=code, net=net)
    return Renderer(generator=generator, code=code, encoder=face_encoder)


class AgeCGAN(Model):
    """The networks and phases of `EncoderCDCGAN`, and an `embedder` that no phase moves but that is shipped along."""

    def __init__(
        self,
        *,
        config: TrainConfig,
        net: AgeCGANConfig,
        embedder: FaceEmbedder,  # trained
        of_embedder: FaceEmbedderConfig,  # its configuration
    ) -> None:
        self.net = net
        self.stages = EncoderCDCGAN(config=config, net=net, embedder=embedder)
        self.code = self.stages.code
        self.networks = self.stages.networks | {"embedder": embedder}
        self.frozen = {k: v for k, v in self.stages.frozen.items() if k != "embedder"}
        self.phases = self.stages.phases
        self.lr_factors = self.stages.lr_factors
        self.shipped = [*self.stages.shipped, "embedder"]
        self.columns = self.stages.columns
        self.pretrained = {"embedder": of_embedder}
        self.pools = {}

    def initial(self, name: str, weights: Weights) -> dict[str, Tensor]:
        return self.stages.initial(name, weights)

    def paused(self, progress: float) -> frozenset[str]:
        paused = self.stages.paused(progress)
        self.columns = self.stages.columns
        return paused

    def reset(self, before: float, progress: float) -> Sequence[str]:
        return self.stages.reset(before, progress)

    def losses(self, batch: Batch, progress: Tensor, paused: frozenset[str]) -> Losses:
        self.stages.ema_networks = self.ema_networks
        return self.stages.losses(batch, progress, paused)

    def renderers(self, networks: Mapping[str, nn.Module]) -> Sequence[Renderer]:
        """Of the first latent vectors; the optimisation of the last ones would take minutes."""
        return self.stages.renderers(networks)

    def measures(self, networks: Mapping[str, nn.Module], x: Tensor, age_years: Tensor) -> dict[str, float]:
        """As of `EncoderCDCGAN`; while the encoder learns, also the distance of identities before the search."""
        measured = self.stages.measures(networks, x, age_years)
        if not (self.net.joint or self.stages.encoding):
            return measured
        made = networks["generator"](networks["encoder"](x), self.code.encode(age_years))
        embedder = networks["embedder"]
        apart = torch.linalg.vector_norm(embedder(made) - embedder(x), dim=1)
        return measured | {"identity_distance": float(apart.mean())}


def build(config: TrainConfig, net: AgeCGANConfig) -> AgeCGAN:
    """The model with the trained embedder that its configuration names."""
    embedder, of_embedder = trained_embedder(net.embedder, config, config.frame)
    return AgeCGAN(config=config, net=net, embedder=embedder, of_embedder=of_embedder)


SYSTEM = System(config=AgeCGANConfig, build=build, data=recipes.age_groups, renderer=renderer)
