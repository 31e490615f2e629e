// Whether torch records what its operators do.
#pragma once

namespace fusedstep {

/// Whether somebody records what this thread does through torch: a profiler, or an observer of its execution.
/// torch asks itself the same before each record. Where its answer cannot be had, it is true.
bool torch_records();

}  // namespace fusedstep
