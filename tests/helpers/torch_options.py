"""For each of torch's classes, options that each change its step in another way."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest

torch: Any = pytest.importorskip("torch")

Options: TypeAlias = dict[str, Any]

VARIANTS: dict[str, list[Options]] = {
    "SGD": [
        {"momentum": 0.0},
        {"nesterov": True},
        {"dampening": 0.3, "maximize": True},
        {"weight_decay": torch.tensor(0.25)},
    ],
    "Adagrad": [{"initial_accumulator_value": 0.3, "eps": 0.1, "maximize": True}],
    "RMSprop": [
        {"momentum": 0.0, "eps": 0.1},
        {"centered": False, "alpha": 0.5},
        {"momentum": 0.0, "centered": False, "maximize": True},
    ],
    "Adam": [
        {"amsgrad": False, "betas": (0.0, 0.0), "eps": 0.1},
        {"amsgrad": True, "betas": (0.5, 0.6), "maximize": True},
        {"decoupled_weight_decay": True},
    ],
    "AdamW": [{"amsgrad": True, "maximize": True, "eps": 0.1}],
    "RAdam": [
        {"decoupled_weight_decay": True, "maximize": True},
        {"betas": (0.8, 0.6)},  # rho_inf = 4: never rectified
        {"betas": (0.8, 0.7), "eps": 0.1},  # rho_inf = 5.67: rectified from some step on
    ],
    "NAdam": [
        {"decoupled_weight_decay": True, "momentum_decay": 0.1},
        {"maximize": True, "betas": (0.5, 0.6), "eps": 0.1},
    ],
    "Adamax": [{"betas": (0.0, 0.5), "maximize": True}, {"eps": 0.5}],
    "Adadelta": [{"rho": 0.5, "eps": 0.1, "maximize": True}],
    "Rprop": [{"step_sizes": (0.008, 0.015), "maximize": True}, {"etas": (0.3, 2.0)}],
    "ASGD": [{"t0": 5, "alpha": 0.5, "maximize": True}],
    "Adafactor": [
        {"lr": 0.01, "weight_decay": 0.0},  # its defaults
        {"lr": 0.2, "weight_decay": 0.0},
        {"lr": 0.9, "weight_decay": 0.0},  # above 1/√t
        {"lr": torch.tensor(0.25, dtype=torch.float64)},
        {"beta2_decay": -0.3},
        {"eps": (2.0, 1e-3)},
        {"eps": (4.0, 1e-3)},  # of the mean
        {"eps": (None, 4.0)},
        {"d": 1.3},
        {"weight_decay": 0.3},
        {"maximize": True},
        {"lr": 0.6, "beta2_decay": -0.5, "eps": (0.1, 2.0), "d": 1.2, "weight_decay": 0.2, "maximize": True},
    ],
    "Muon": [
        {"lr": 1e-3},
        {"lr": 0.3},
        {"lr": torch.tensor(0.25, dtype=torch.float64)},
        {"weight_decay": 3.0},
        {"weight_decay": 0.0},
        {"momentum": 0.5},
        {"momentum": 0.0},
        {"nesterov": False},
        {"ns_coefficients": (1.5, -0.5, 0.0)},
        {"eps": 100.0},
        {"ns_steps": 2},
        {"ns_steps": 0},
        {"adjust_lr_fn": "original"},
        {"adjust_lr_fn": "match_rms_adamw", "nesterov": False},
    ],
}
OPTIONS = [(name, options) for name, all_options in VARIANTS.items() for options in all_options]
