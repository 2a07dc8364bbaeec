"""Published recipes: for each model and preset the settings that differ from the defaults."""

from typing import Any

# The generator and losses of the CycleGAN paper and of Liu's recipe, which is built on it.
_PLAIN = {
    "ngf": 64,
    "residual": False,
    "resize": False,
    "reflect": True,
    "lambda_cycle": 10.0,
    "lambda_identity": 5.0,
    "identity_every": 1,
}
_PLAIN_AGE = _PLAIN | {"lambda_wrong_age": 0.0, "lambda_age": 0.0}
_ADAM = {"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "ema": 0.0, "epochs": 200.0, "batch_size": 1}

# Each preset: (settings of the training, settings of the model).
PRESETS: dict[str, dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "cyclegan": {
        # What gave the shipped weights.
        "default": ({"epochs": 0.9, "snapshot_every": 250}, {}),
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
        "zhu": (_ADAM, _PLAIN),
    },
    "age_estimator": {
        "default": ({"epochs": 10.0, "batch_size": 32, "lr": 2e-3, "betas": (0.9, 0.999), "lr_constant": 0.1}, {}),
        "small": (
            {"epochs": 10.0, "batch_size": 32, "lr": 2e-3, "betas": (0.9, 0.999), "lr_constant": 0.1, "seed": 1},
            {"width": 32, "depth": (2, 2, 2), "input_size": 64},
        ),
    },
}
