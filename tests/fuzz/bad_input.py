"""Random runs in which something is wrong: it must be refused, change nothing, and leave no trace.

Two runs are the same but for this. ``python -m tests.fuzz.bad_input``.
"""

from __future__ import annotations

import random

from tests.fuzz import changed_arrays, wrong_arguments, wrong_gradients, wrong_rows, wrong_states
from tests.fuzz.common import main
from tests.fuzz.mistakes import Family, good_step, wrong_with
from tests.fuzz.strict import wrong_when_strict
from tests.fuzz.subject import Subject

FAMILIES: list[Family] = [
    wrong_gradients.wrong_array,
    wrong_gradients.read_only,
    wrong_gradients.shared,
    wrong_gradients.hostile,
    wrong_gradients.falsely_writeable,
    wrong_gradients.wrong_structure,
    wrong_gradients.wrong_rows,
    wrong_rows.wrong_indices,
    wrong_rows.wrong_values,
    wrong_rows.shared_values,
    wrong_rows.indices_in_parameter,
    wrong_rows.hostile_rows,
    wrong_rows.wrong_name,
    wrong_rows.wrong_rule,
    wrong_arguments.wrong_option,
    wrong_arguments.wrong_loss,
    wrong_arguments.wrong_hyperparameter,
    wrong_arguments.wrong_schedule,
    wrong_arguments.wrong_optimizer,
    wrong_arguments.hostile_parameter,
    wrong_arguments.wrong_mode,
    wrong_states.no_state,
    wrong_states.wrong_state,
    changed_arrays.changed_parameter,
    changed_arrays.changed_state,
    changed_arrays.changed_gradient,
    changed_arrays.changed_within,
    changed_arrays.resized_array,
]


def case(rng: random.Random) -> str | None:
    """What is not as it must be in a run with some mistakes."""
    seed, backend = rng.getrandbits(64), rng.choice(["native", "native", "numpy"])
    subject, twin = (Subject(random.Random(seed), backend) for _ in range(2))
    for _ in range(rng.choice([0, 1, 1, 2])):
        good_step(subject)
        good_step(twin)
    about = f"{subject.opt} of {subject.form}, {backend}"
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.1:
            wrong, last = wrong_when_strict(subject, twin), False
        elif mistake := rng.choice(FAMILIES)(rng, subject):
            wrong, last = wrong_with(mistake, subject, twin), mistake.last
        else:
            continue
        if wrong or last:
            return wrong and f"{about}: {wrong}"
    return None


if __name__ == "__main__":
    main(case, __doc__)
