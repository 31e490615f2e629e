"""The containers in which parameters and gradients are given."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from .rows import Rows

Tree: TypeAlias = np.ndarray[Any, Any] | Rows | Iterable[Any] | Mapping[Any, Any]
Params: TypeAlias = Tree
"""An array, a sequence of arrays, a mapping of names to arrays, or a list of groups: mappings with
``"params"`` in any of these forms, and the hyperparameters that differ for that group."""

# Tuples, because building a union of types takes longer than the isinstance check that uses it.
NO_SERIES = (Mapping, AbstractSet, np.ndarray, str, bytes)
ARRAYS = (np.ndarray, np.generic, Rows)
KINDS = {np.ndarray: "an array", Sequence: "a sequence", Mapping: "a mapping"}


@dataclass(frozen=True)
class Structure:
    """One level of a structure: `kind` is the type of container, `names` are its keys or positions."""

    kind: type
    names: tuple[Hashable, ...]
    start: int = 0  # the position of the first leaf among all groups

    @classmethod
    def of(cls, tree: Any, start: int = 0) -> tuple[Structure, list[Any]]:
        """Return the structure of `tree`, with positions counted from `start`, and the leaves of `tree`."""
        if isinstance(tree, Mapping):
            return cls(Mapping, tuple(tree)), list(tree.values())
        if isinstance(tree, np.ndarray):
            return cls(np.ndarray, (start,), start), [tree]
        if isinstance(tree, list):
            return cls(Sequence, tuple(range(start, start + len(tree))), start), tree
        raise TypeError(f"params must be an array, a sequence or a mapping, not {type(tree).__name__}")

    def fits(self, tree: Any) -> bool:
        """Whether `tree` is the same kind of container."""
        if self.kind is np.ndarray:
            return tree is None or isinstance(tree, ARRAYS)
        if self.kind is Mapping:
            return type(tree) is dict or isinstance(tree, Mapping)  # the second question takes longer
        return is_series(tree)

    @property
    def form(self) -> int | tuple[Hashable, ...] | None:
        """The names of a mapping, the length of a sequence; None for one array."""
        if self.kind is np.ndarray:
            return None
        return len(self.names) if self.kind is Sequence else self.names

    def leaves(self, tree: Any) -> list[Any]:
        """Return the leaves of `tree` in this structure's order; raise an error if its structure differs."""
        if not self.fits(tree):
            raise TypeError(
                f"gradients must be {KINDS[self.kind]}, like the parameters, not {type(tree).__name__}"
            )
        if self.kind is np.ndarray:
            return [tree]
        missing: Sequence[Hashable]
        extra: Sequence[Hashable]
        if self.kind is Sequence:
            tree = list(islice(tree, len(self.names) + 1))  # of one that never ends, too
            missing = self.names[len(tree) :]
            extra = range(self.start + len(self.names), self.start + len(tree))
        else:
            missing = [name for name in self.names if name not in tree]
            extra = [] if len(tree) == len(self.names) else [name for name in tree if name not in self.names]
        if missing:
            raise ValueError(f"no gradient for parameter {missing[0]!r} (None would skip it)")
        if extra:
            raise ValueError(f"gradient {extra[0]!r} belongs to no parameter")
        return tree if self.kind is Sequence else [tree[name] for name in self.names]

    def tree(self, leaves: list[Any]) -> Any:
        """Return the leaves as a mapping by name, or just the leaf if the structure is one array."""
        return leaves[0] if self.kind is np.ndarray else dict(zip(self.names, leaves, strict=True))


class Groups:
    """The structure of all parameters: their names over all groups, and the forms that gradients may have."""

    def __init__(self, params: Any) -> None:
        """Read `params` into `options`, `trees`, `groups`, `leaves` (an item for each group) and `names`."""
        params = listed(params)
        self._grouped = isinstance(params, list) and any(_is_group(item) for item in params)
        groups = params if self._grouped else [{"params": params}]
        for i, group in enumerate(groups):
            if not _is_group(group):
                raise TypeError(f"group {i} must be a mapping with 'params', got {type(group).__name__}")
        self.options = [{key: group[key] for key in group if key != "params"} for group in groups]
        self.trees = [listed(group["params"]) for group in groups]
        self.groups: list[Structure] = []
        self.leaves: list[list[Any]] = []
        self.names: list[Hashable] = []
        for tree in self.trees:
            structure, leaves = Structure.of(tree, start=len(self.names))
            self.groups.append(structure)
            self.leaves.append(leaves)
            self.names.extend(structure.names)
        if not self.names:
            raise ValueError("there are no parameters")
        seen = set()
        for name in self.names:
            if name in seen:
                raise ValueError(f"parameter {name!r} is in two groups")
            seen.add(name)
        mappings = {structure.kind is Mapping for structure in self.groups}
        self._flat = (
            self.groups[0]
            if not self._grouped
            else Structure(Mapping if mappings == {True} else Sequence, tuple(self.names))
        )

    @property
    def parameters(self) -> list[Any]:
        """The parameters of all groups, in the order of `names`."""
        return [leaf for leaves in self.leaves for leaf in leaves]

    def gradients(self, grads: Any) -> list[Any]:
        """Return the gradients in the order of `names`; `grads` is one tree over all or one a group."""
        if self._grouped and isinstance(grads, list | tuple) and len(grads) == len(self.groups):
            trees = [tree["params"] if _is_group(tree) and len(tree) == 1 else tree for tree in grads]
            pairs = list(zip(self.groups, trees, strict=True))
            if all(structure.fits(tree) for structure, tree in pairs):
                return [leaf for structure, tree in pairs for leaf in structure.leaves(tree)]
        if self._grouped and not self._flat.fits(grads):
            raise TypeError(
                f"gradients must be a list of {len(self.groups)} items, each like its group's parameters, or "
                f"{KINDS[self._flat.kind]} over all parameters, not {type(grads).__name__}"
            )
        return self._flat.leaves(grads)

    def forms(self) -> tuple[list[Any], Any]:
        """Return the forms in which gradients come: of each group, if there are groups, and of all."""
        return [structure.form for structure in self.groups] if self._grouped else [], self._flat.form

    def tree(self, leaves: list[Any]) -> Any:
        """Return the leaves, one for each parameter, keyed like the parameters."""
        return self._flat.tree(leaves)


def is_series(tree: Any) -> bool:
    """Whether `tree` is a list of leaves, or another iterable that gives them in order."""
    return isinstance(tree, Iterable) and not isinstance(tree, NO_SERIES)


def listed(tree: Any) -> Any:
    """Return `tree`, as a list if it is a series, because an iterator gives its leaves only once."""
    return list(tree) if is_series(tree) else tree


def _is_group(tree: Any) -> bool:
    return isinstance(tree, Mapping) and "params" in tree
