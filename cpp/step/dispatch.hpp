// The choice of the instruction set.
#pragma once

#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace fusedstep {

/// The tables that this build has and this processor can run, slowest first.
const std::vector<const Table*>& available();

/// The table in use: the last of available() until use() names another.
const Table& active();

/// Chooses the table of `isa`. Throws std::invalid_argument if the build does not have it or the processor
/// does not support it.
void use(const std::string& isa);

}  // namespace fusedstep
