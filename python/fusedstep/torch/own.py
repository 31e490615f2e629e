"""Every rule that torch does not have, as a torch optimizer under its own name."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._core import Changes
from ..engine.optimizer import Optimizer as Rule
from ..formula.hyperparameters import Hyperparameter
from ..update_rules.schedule_free import ScheduleFree, to_z
from .arguments import number, signature
from .fused import Fused
from .memory import copy_into

BETAS = ("beta1", "beta2")
NOTE = (
    "Here beta1 and beta2 are ``betas``; `Fused` adds its arguments. State that is one number per group is\n"
    "here one number for all parameters of a group that have made the same steps."
)


class Own(Fused):
    """A rule with its own hyperparameters and state, `beta1` and `beta2` in torch's form: `betas`."""

    scalar_dtype = torch.float64

    _names: ClassVar[frozenset[str]]

    def __init__(
        self,
        params: Any,
        *,
        clip_norm: float | None = None,
        state_dtype: Any = None,
        unscale_in_step: bool = False,
        **hyperparameters: Any,
    ) -> None:
        fields = self.rule._fields
        values = _torch_form({name: field.default for name, field in fields.items()})
        unknown = [name for name in hyperparameters if name not in values]
        if unknown:
            raise TypeError(f"no hyperparameter {unknown[0]!r}; there are {', '.join(values)}")
        values |= hyperparameters
        for name, value in _rule_form(values).items():
            _check(fields[name], value)
        super().__init__(
            params,
            values,
            clip_norm=clip_norm,
            state_dtype=state_dtype,
            unscale_in_step=unscale_in_step,
        )

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        values = _rule_form({name: group[name] for name in group if name in self._names})
        return {name: value if isinstance(value, bool) else number(value) for name, value in values.items()}


class OwnScheduleFree(Own):
    """A rule whose parameters hold an average in evaluation mode."""

    rule: ClassVar[type[ScheduleFree]]

    def train(self) -> None:
        """Change the parameters to the point where gradients are computed, to continue with steps."""
        self._machine.busy.run(self._turn, False)

    def eval(self) -> None:
        """Change the parameters to the average, to evaluate or save them."""
        self._machine.busy.run(self._turn, True)

    @torch.no_grad()
    def _turn(self, evaluating: bool) -> None:
        changes = Changes()
        turned = []
        for group in self.param_groups:
            self.make_state(group["params"])
            weight = to_z(self.hyperparameters(group)[self.rule.mixture], evaluating)
            for p in group["params"]:
                state = self.state[p]
                if bool(state["evaluating"]) != evaluating:
                    wide = torch.promote_types(p.dtype, torch.float32)
                    point = torch.lerp(p.to(wide), state["z"].to(wide), weight)
                    copy_into(changes, p, point.to(p.dtype))
                    mode = state["evaluating"]
                    copy_into(changes, mode, torch.full_like(mode, evaluating))
                    turned.append(p)
        torch.autograd.graph.increment_version(turned)
        changes.write()


def under_its_own_name(rule: type[Rule], module: str) -> type[Own]:
    """Make the class of a rule, for `module` to export under the rule's name."""
    defaults = _torch_form({name: field.default for name, field in rule._fields.items()})
    parameters = [inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in defaults.items()
    ]
    members = {
        "__module__": module,
        "__doc__": f"{inspect.getdoc(rule)}\n\n{NOTE}",
        "__signature__": signature(parameters, {}),
        "rule": rule,
        "_names": frozenset(defaults),
    }
    base = OwnScheduleFree if issubclass(rule, ScheduleFree) else Own
    return type(rule.__name__, (base,), members)


def _torch_form(values: dict[str, Any]) -> dict[str, Any]:
    if not all(name in values for name in BETAS):
        return values
    others = {name: value for name, value in values.items() if name not in BETAS}
    return {"betas": tuple(values[name] for name in BETAS), **others}


def _rule_form(values: dict[str, Any]) -> dict[str, Any]:
    others = {name: value for name, value in values.items() if name != "betas"}
    return others | (dict(zip(BETAS, values["betas"], strict=True)) if "betas" in values else {})


def _check(field: Hyperparameter, value: Any) -> None:
    if callable(value):
        raise TypeError(f"{field.name} must be a number; torch.optim.lr_scheduler changes it between steps")
    field.checked(number(value) if isinstance(value, Tensor) else value)
