"""Published recipes: for each model and preset the settings that differ from the defaults."""

from typing import Any

# The generator and losses of the CycleGAN paper and of Liu's recipe, which builds on it.
_PLAIN = {
    "ngf": 64,
    "residual": False,
    "resize": False,
    "reflect": True,
    "lambda_cycle": 10.0,
    "lambda_identity": 5.0,
    "identity_share": 1.0,
}
_PLAIN_AGE = _PLAIN | {"lambda_wrong_age": 0.0, "lambda_age": 0.0}
_ADAM = {"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "ema": 0.0, "epochs": 200.0, "batch_size": 1}
# Useful after 20 minutes on two cores. No random crops: the framing is that of rendering.
_SMALL = {"image_size": 64, "load_size": 64, "lr_constant": 1.0}
# The later stages of the shipped weights: 64 px inside, 128 outside.
_DETAIL_TRAINING = {"batch_size": 6, "epochs": 3.45, "ema": 0.999, "snapshot_every": 1000}
_DETAIL = {"deform": 0.06, "chroma": 0.03, "inner_size": 64, "detail": 24, "sexes": True}
_NANDI = {
    "image_size": 64,
    "load_size": 64,
    "flip": False,
    "ages": (0, 19, 30, 40, 50, 60),
    "ends": (18, 29, 39, 49, 59, 120),
    "age_vector": "onehot",
    "batch_size": 128,
    "epochs": 50.0,
    "lr_constant": 1.0,
    "ema": 0.0,
    "feature_layers": ("stages.1", "stages.2"),
}
_NANDI_CGAN = {"d_channels": (64, 70, 128, 256, 512), "norm": False, "slope": 0.0, "label_smoothing": 0.1}
# Of the latent-vector systems that are stronger than published.
_STRONGER_TRAINING = {
    "lr": 5e-4,
    "betas": (0.0, 0.99),
    "lr_constant": 0.6,
    "ema": 0.998,
    "feature_layers": ("stages.1", "stages.2"),
}
_NOISE = _SMALL | _STRONGER_TRAINING | {"batch_size": 64, "lr": 2e-4, "ema": 0.999, "epochs": 20.0}
# Discriminators of augmented pictures learn little in some thousand steps.
_NOISE_NET = {
    "residual": True,
    "lambda_features": 5.0,
    "lambda_r1": 0.1,
    "g_channels": (256, 160, 96, 32),
    "d_channels": (48, 96, 192, 384),
    "prior": "normal",
}
# With --init, from the weights of the default preset: an additional block doubles the side.
_LARGE = {"image_size": 128, "load_size": 128, "lr_constant": 0.4, "ema": 0.995}
_LARGE_NET = {"g_channels": (256, 160, 96, 32, 32), "d_channels": (32, 48, 96, 192, 384)}
_ENCODED = _NOISE | {"batch_size": 32, "lr": 3e-4}
_ENCODED_NET = _NOISE_NET | {
    "e_channels": (24, 48, 96, 160),
    "joint": True,
    "lambda_pixel": 6.0,
    "lambda_perceptual": 4.0,
    "lambda_identity": 8.0,
}
_ENCODED_LARGE_NET = _ENCODED_NET | _LARGE_NET | {"e_size": 64}
_TEN_GROUPS = {
    "load_size": 128,
    "flip": False,
    "ages": (0, 6, 11, 16, 21, 31, 41, 51, 61, 71),
    "ends": (5, 10, 15, 20, 30, 40, 50, 60, 70, 120),
    "age_vector": "onehot",
    "epochs": 50.0,
    "lr_constant": 1.0,
    "ema": 0.0,
    "feature_layers": ("stages.1", "stages.2"),
}
_ESTIMATOR = {"batch_size": 32, "lr": 2e-3, "betas": (0.9, 0.999), "lr_constant": 0.1}
_PARSER = {
    "load_size": 128,
    "flip": False,
    "epochs": 6.0,
    "batch_size": 8,
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "lr_constant": 0.1,
    "ema": 0.99,
    "compile": False,
    "precision": "fp32",
}
_EMBEDDER = {"image_size": 64, "load_size": 72, "epochs": 20.0, "batch_size": 32, "lr": 1e-3, "betas": (0.9, 0.999)}

# Presets, by model, that start from weights of --init.
LATER_STAGES: dict[str, tuple[str, ...]] = {
    "cyclegan": ("detail", "shift"),
    **dict.fromkeys(("gan", "cgan", "encoder_cdcgan", "age_cgan"), ("large",)),
}

# Each preset: (settings of the training, settings of the model).
PRESETS: dict[str, dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "cyclegan": {
        # The first stage of the shipped weights.
        "default": (
            {"image_size": 64, "load_size": 72, "batch_size": 6, "epochs": 3.6, "snapshot_every": 1000},
            {"deform": 0.06, "chroma": 0.3, "cycle_share": 0.5},
        ),
        # The second, with --init: the same at 64 px, with a full-resolution branch.
        "detail": (
            _DETAIL_TRAINING,
            _DETAIL
            | {
                "most_change": 0.5,
                "symmetric": True,
                "cycle_share": 0.5,
                "lambda_outside": 2.0,
                "age_tolerance": 2.0,
                "age_share": 0.8,
            },
        ),
        # The third, with --init: adds the feature shift term, with lower weights of the estimators.
        "shift": (
            _DETAIL_TRAINING | {"load_size": 132, "epochs": 3.7},
            _DETAIL
            | {
                "most_change": 0.6,
                "ndf": 32,
                "cycle_share": 0.25,
                "identity_share": 0.125,
                "lambda_outside": 1.0,
                "lambda_features": 2.0,
                "lambda_shift": 2.5,
                "shift_strength": 4.0,
                "lambda_age": 0.05,
                "age_share": 0.5,
                "fooled_warmup": 0.1,
            },
        ),
        # Liu, "As Time Goes By": SGD, learning rate 0.002, 50 epochs, one unit vector per decade.
        "liu": (
            {"optimizer": "sgd", "lr": 2e-3, "lr_constant": 1.0, "epochs": 50.0, "ema": 0.0, "age_vector": "onehot"},
            _PLAIN_AGE,
        ),
        # Zhu et al. 2017, section 4 and appendix 7.1.
        "zhu": (_ADAM, _PLAIN_AGE),
    },
    "cyclegan_pair": {
        "default": ({"epochs": 20.0}, {"lambda_cycle": 10.0, "lambda_identity": 5.0}),
        "small": (
            _SMALL | {"epochs": 6.0, "batch_size": 4},
            {"ngf": 20, "lambda_cycle": 5.0, "lambda_identity": 2.5},
        ),
        "zhu": (_ADAM, _PLAIN),
        # The same paper at 256 px, with the layers of its program, for converted weights.
        "zhu_256": (_ADAM | {"image_size": 256, "load_size": 286}, _PLAIN | {"generator": "resnet"}),
    },
    "cyclegan_heads": {
        "default": (
            {
                "image_size": 256,
                "load_size": 256,
                "frame": "ffhq",
                "ages": (10, 20, 30, 40, 50, 60, 70),
                "batch_size": 32,
                "epochs": 15.0,
                "betas": (0.5, 0.99),
                "lr_constant": 0.6,
                "clip": 5.0,
            },
            {"most_chroma": 0.06, "most_shade": 0.11, "head_alone": True, "smooth_eyes": True, "two_steps": True},
        ),
    },
    "age_estimator": {
        # The first round of `age_loss_a`, from --ages 0 10 20 30 40 50 60 70.
        "default": (
            _ESTIMATOR | {"image_size": 96, "load_size": 108, "epochs": 12.0, "seed": 2},
            {"width": 20, "depth": (1, 2, 3, 2), "input_size": 96},
        ),
        "large": (_ESTIMATOR | {"epochs": 10.0}, {}),
        # From ImageNet's weights; the first round of `age_judge`, from --ages 0 10 20 30 40 50 60 70. Never used in a
        # loss.
        "imagenet": (
            _ESTIMATOR | {"batch_size": 16, "lr": 5e-4, "epochs": 2.4, "compile": False, "precision": "fp32"},
            {"backbone": "efficientnet_lite1"},
        ),
    },
    "face_embedder": {
        # From faces with names, and from a packaged recogniser on faces of every age.
        "default": (_EMBEDDER, {}),
        "distil": (_EMBEDDER | {"ages": (5, 15, 25, 35, 45, 55, 65, 75)}, {"teacher": "sface"}),
    },
    "face_parser": {
        # The shipped weights, from ImageNet's.
        "default": (_PARSER, {}),
    },
    "pfa_gan": {
        # The discriminator diverged at a learning rate of 8e-4; here it has the generator's.
        "default": (
            {
                "load_size": 128,
                "epochs": 3.0,
                "batch_size": 16,
                "lr": 3e-4,
                "lr_constant": 0.5,
                "ema": 0.999,
                "feature_layers": ("steps.0.blocks.0", "steps.3.blocks.0"),
            },
            {
                "younger_blocks": 3,
                "ndf": 32,
                "lambda_age": 0.0015,
                "lambda_identity": 2.0,
                "lambda_features": 2.0,
                "lambda_eyes": 1.0,
            },
        ),
        "small": (
            _SMALL | {"epochs": 2.0, "feature_layers": ("steps.0.blocks.0", "steps.3.blocks.0")},
            {"d_rate": 2.0, "lambda_age": 0.001, "lambda_identity": 3.0},
        ),
        # Huang et al. 2021, section IV-A: four groups, and 200,000 steps on CACD's 163,446 faces. Weights are relative
        # to the adversarial term's; that of the deep features was meant for features of another scale.
        "huang": (
            {
                "ages": (14, 31, 41, 51),
                "ends": (30, 40, 50, 120),
                "age_vector": "onehot",
                "image_size": 256,
                "load_size": 256,
                "flip": False,
                "epochs": 15.0,
                "batch_size": 12,
                "lr": 1e-4,
                "betas": (0.5, 0.99),
                "lr_constant": 1.0,
                "ema": 0.0,
                "feature_layers": ("steps.0.blocks.0",),
            },
            {"ngf": 32, "lambda_age": 0.008, "lambda_identity": 4e-4, "alpha_feature": 0.025},
        ),
    },
    "caae": {
        "default": (
            _STRONGER_TRAINING | {"epochs": 20.0, "batch_size": 32, "load_size": 128},
            {
                "residual": True,
                "augment": True,
                "z": 128,
                "kernel": 4,
                "encoder": (24, 48, 96, 128, 160),
                "decoder": (192, 128, 96, 48, 24),
                "critic": (24, 48, 96, 192, 256),
                "reconstruction": "l1",
                "lambda_reconstruction": 10.0,
                "lambda_z": 0.1,
                "lambda_tv": 0.0,
                "lambda_features": 3.0,
                "lambda_perceptual": 6.0,
                "lambda_identity": 10.0,
                "other_ages": True,
            },
        ),
        "small": (
            _SMALL | {"epochs": 20.0, "batch_size": 32, "lr": 5e-4, "feature_layers": ("stages.1", "stages.2")},
            {
                "kernel": 4,
                "encoder": (32, 64, 128, 256),
                "decoder": (256, 128, 64, 32),
                "hidden": 256,
                "reconstruction": "l1",
                "lambda_tv": 1.0,
            },
        ),
        # Kim and Deb, "TimeMachiNet": ten groups.
        "kim": (
            _TEN_GROUPS | {"batch_size": 32},
            {
                "kernel": 4,
                "encoder": (64, 128, 256, 512),
                "decoder": (1024, 512, 256, 128, 64),
                "critic": (16, 32),
                "hidden": 128,
                "norm": False,
            },
        ),
        # Serry, "AgeProgression": ten groups times two sexes.
        "serry": (_TEN_GROUPS | {"batch_size": 64, "betas": (0.9, 0.999)}, {"sexes": True}),
    },
    "gan": {
        # From random weights, the feature discriminator caused mode collapse; from those of a `cgan` it does not.
        "default": (_NOISE, _NOISE_NET | {"lambda_features": 0.0}),
        "large": (_NOISE | _LARGE | {"lr": 1e-4}, _NOISE_NET | _LARGE_NET | {"d_rate": 2.0}),
        # Nandi et al., AI2100, tables 5 and 6.
        "nandi": (
            _NANDI | {"epochs": 100.0, "lr": 4e-3, "betas": (0.65, 0.999)},
            {"g_channels": (25, 15, 10, 6), "d_channels": (6, 10, 15, 25), "norm": False},
        ),
    },
    "cgan": {
        "default": (_NOISE, _NOISE_NET),
        "large": (_NOISE | _LARGE, _NOISE_NET | _LARGE_NET),
        # Nandi et al., AI2100: six groups.
        "nandi": (_NANDI, _NANDI_CGAN),
    },
    "encoder_cdcgan": {
        "default": (_ENCODED, _ENCODED_NET),
        "large": (_ENCODED | _LARGE, _ENCODED_LARGE_NET),
        # "Face Aging using an Encoder - Conditional DCGAN Network": two groups.
        "blog": (
            _NANDI | {"ages": (20, 40), "ends": (30, 50)},
            {"prior": "normal", "label_at": 1, "slope": 0.0},
        ),
    },
    "age_cgan": {
        "default": (_ENCODED, _ENCODED_NET),
        "large": (_ENCODED | _LARGE, _ENCODED_LARGE_NET),
        # Nandi et al., AI2100, after Antipov et al. 2017, whose noise is normal and whose steps are of L-BFGS.
        "nandi": (
            _NANDI,
            _NANDI_CGAN
            | {
                "e_channels": (32, 64, 128, 256),
                "prior": "normal",
                "latent_optimizer": "lbfgs",
                "latent_rate": 1.0,
            },
        ),
    },
}
