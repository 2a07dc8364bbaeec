"""The table of the models: for each name its row, which its file exports; docs/extending.md says how to add one."""

from cyclegan_age.models import (
    age_cgan,
    age_estimator,
    caae,
    cgan,
    cyclegan,
    cyclegan_heads,
    cyclegan_pair,
    encoder_cdcgan,
    face_embedder,
    face_parser,
    gan,
    pfa_gan,
)
from cyclegan_age.models.base import System
from cyclegan_age.models.pretrained import load_embedder as load_embedder
from cyclegan_age.models.pretrained import load_estimator as load_estimator
from cyclegan_age.models.pretrained import load_parser as load_parser
from cyclegan_age.models.pretrained import trained_estimator as trained_estimator

SYSTEMS: dict[str, System] = {
    "cyclegan": cyclegan.SYSTEM,
    "cyclegan_pair": cyclegan_pair.SYSTEM,
    "cyclegan_heads": cyclegan_heads.SYSTEM,
    "age_estimator": age_estimator.SYSTEM,
    "face_embedder": face_embedder.SYSTEM,
    "pfa_gan": pfa_gan.SYSTEM,
    "face_parser": face_parser.SYSTEM,
    "caae": caae.SYSTEM,
    "gan": gan.SYSTEM,
    "cgan": cgan.SYSTEM,
    "encoder_cdcgan": encoder_cdcgan.SYSTEM,
    "age_cgan": age_cgan.SYSTEM,
}
