"""The rules that torch.optim has, with its names, arguments, defaults, state and checkpoints.

Each class maps torch's names of hyperparameters and state to the rule's names.
"""

from __future__ import annotations

from . import adagrad, adam, matrix, sgd, sign
from .adagrad import *
from .adam import *
from .matrix import *
from .sgd import *
from .sign import *

__all__ = []
__all__ += adagrad.__all__
__all__ += adam.__all__
__all__ += matrix.__all__
__all__ += sgd.__all__
__all__ += sign.__all__
