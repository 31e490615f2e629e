// The lock of an optimizer, which has one user at a time.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "python/changes.hpp"
#include "step/forks.hpp"

namespace fusedstep {

namespace py = pybind11;

/// A lock that is never left locked: a `Hold` frees it, and no interrupt can come between C++ and a
/// destructor.
class Busy {
 public:
  /// Throws std::runtime_error while somebody has the lock.
  void take();
  void leave();

  /// Whether averages are in the place of the optimizer's weights.
  bool swapped() const;

  /// ``"swapped"``: the same. A dictionary, so that it can change together with the weights.
  py::dict state;

  /// What the holder will change. It is forgotten when the holder leaves, whatever ends the step.
  Changes changes;

 private:
  Turn turn_;
  py::str swapped_{"swapped"};
};

/// Calls function(*args) with the lock, and with the floating-point mode in which the numbers of a step are
/// the same whatever other libraries have set. Throws std::runtime_error while averages are swapped in.
py::object run_alone(const std::shared_ptr<Busy>& busy, const py::object& function, const py::args& args);

/// Calls function(*args), which only reads, with the lock.
py::object read_alone(const std::shared_ptr<Busy>& busy, const py::object& function, const py::args& args);

}  // namespace fusedstep
