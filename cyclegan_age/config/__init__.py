"""What can be set: one frozen dataclass each for a training, a rendering and each model, with their checks.

Nothing here imports torch, so that `--help` answers at once. The field docstrings are the command line's help.
"""

from cyclegan_age.config.adversary import AdversaryConfig as AdversaryConfig
from cyclegan_age.config.adversary import LatentConfig as LatentConfig
from cyclegan_age.config.adversary import PFAGANConfig as PFAGANConfig
from cyclegan_age.config.batch import BatchConfig as BatchConfig
from cyclegan_age.config.cyclegan import CycleGANConfig as CycleGANConfig
from cyclegan_age.config.cyclegan import CycleGANPairConfig as CycleGANPairConfig
from cyclegan_age.config.cyclegan import GeneratorConfig as GeneratorConfig
from cyclegan_age.config.cyclegan_heads import CycleGANHeadsConfig as CycleGANHeadsConfig
from cyclegan_age.config.demo import DemoConfig as DemoConfig
from cyclegan_age.config.errors import INSTALL_VISDOM as INSTALL_VISDOM
from cyclegan_age.config.errors import INSTALLED as INSTALLED
from cyclegan_age.config.errors import UserError as UserError
from cyclegan_age.config.errors import WrongWeights as WrongWeights
from cyclegan_age.config.errors import install_extra as install_extra
from cyclegan_age.config.errors import needs as needs
from cyclegan_age.config.estimators import AgeEstimatorConfig as AgeEstimatorConfig
from cyclegan_age.config.estimators import FaceEmbedderConfig as FaceEmbedderConfig
from cyclegan_age.config.estimators import FaceParserConfig as FaceParserConfig
from cyclegan_age.config.evaluate import EvaluateConfig as EvaluateConfig
from cyclegan_age.config.export import ConvertConfig as ConvertConfig
from cyclegan_age.config.export import ExportConfig as ExportConfig
from cyclegan_age.config.latent import AgeCGANConfig as AgeCGANConfig
from cyclegan_age.config.latent import CAAEConfig as CAAEConfig
from cyclegan_age.config.latent import CGANConfig as CGANConfig
from cyclegan_age.config.latent import EncodedConfig as EncodedConfig
from cyclegan_age.config.latent import EncoderCDCGANConfig as EncoderCDCGANConfig
from cyclegan_age.config.latent import GANConfig as GANConfig
from cyclegan_age.config.latent import NoiseConfig as NoiseConfig
from cyclegan_age.config.models import MODEL_CONFIGS as MODEL_CONFIGS
from cyclegan_age.config.models import ModelConfig as ModelConfig
from cyclegan_age.config.prepare import PREPARE_SETS as PREPARE_SETS
from cyclegan_age.config.prepare import AuditConfig as AuditConfig
from cyclegan_age.config.prepare import LabelConfig as LabelConfig
from cyclegan_age.config.prepare import PrepareConfig as PrepareConfig
from cyclegan_age.config.prepare import ShardsConfig as ShardsConfig
from cyclegan_age.config.test import InferConfig as InferConfig
from cyclegan_age.config.train import TrainConfig as TrainConfig
from cyclegan_age.config.values import CHANGE_PARTS as CHANGE_PARTS
from cyclegan_age.config.values import FRAME_NAMES as FRAME_NAMES
from cyclegan_age.config.values import OLDEST as OLDEST
from cyclegan_age.config.values import check_strengths as check_strengths
from cyclegan_age.config.values import frame_numbers as frame_numbers
