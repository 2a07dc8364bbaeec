"""The table of the models' configurations."""

from cyclegan_age.config.adversary import PFAGANConfig
from cyclegan_age.config.cyclegan import CycleGANConfig, CycleGANPairConfig
from cyclegan_age.config.cyclegan_heads import CycleGANHeadsConfig
from cyclegan_age.config.estimators import AgeEstimatorConfig, FaceEmbedderConfig, FaceParserConfig
from cyclegan_age.config.latent import AgeCGANConfig, CAAEConfig, CGANConfig, EncoderCDCGANConfig, GANConfig

ModelConfig = (
    CycleGANConfig
    | CycleGANPairConfig
    | CycleGANHeadsConfig
    | AgeEstimatorConfig
    | FaceEmbedderConfig
    | FaceParserConfig
    | PFAGANConfig
    | CAAEConfig
    | GANConfig
    | CGANConfig
    | EncoderCDCGANConfig
    | AgeCGANConfig
)

MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    "cyclegan": CycleGANConfig,
    "cyclegan_pair": CycleGANPairConfig,
    "cyclegan_heads": CycleGANHeadsConfig,
    "age_estimator": AgeEstimatorConfig,
    "face_embedder": FaceEmbedderConfig,
    "face_parser": FaceParserConfig,
    "pfa_gan": PFAGANConfig,
    "caae": CAAEConfig,
    "gan": GANConfig,
    "cgan": CGANConfig,
    "encoder_cdcgan": EncoderCDCGANConfig,
    "age_cgan": AgeCGANConfig,
}
