// Which instruction set runs.
#pragma once

#include <string>
#include <vector>

#include "table.hpp"

namespace fusedstep {

/// The tables that this build has and this processor can run, slowest first.
const std::vector<const Table*>& available();

/// The table in use: the last of available() until use() names another.
const Table& active();

/// Throws std::invalid_argument where `isa` is unknown to the build or not supported by the processor.
void use(const std::string& isa);

}  // namespace fusedstep
