// How a number is kept in memory: the type it is computed in, and how ONE element is loaded and stored.
#pragma once

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// float and double are computed as they are kept. A narrower format names a wider Arithmetic here,
/// and converts in load (exact) and store (one rounding, to nearest even).
template <class Kept>
struct Storage {
  using Arithmetic = Kept;
  static Kept load(Kept x) { return x; }
  static Kept store(Kept x) { return x; }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
