// The lock of an optimizer, which has one user at a time.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <thread>

#include "python/changes.hpp"

namespace fusedstep {

namespace py = pybind11;

/// A lock that is never left locked: a `Hold` frees it, and no interrupt can come between C++ and a
/// destructor.
class Busy {
 public:
  /// Throws std::runtime_error while there is another holder, or `state` says that averages are swapped in.
  void take(const void* holder);

  /// Does nothing if another is the holder.
  void leave(const void* holder);

  /// ``"swapped"``: whether averages are in the place of the optimizer's weights. A dictionary, so that it
  /// can change together with the weights.
  py::dict state;

  /// What the holder will change. It is forgotten when the holder leaves, whatever ends the step.
  Changes changes;

 private:
  /// Whether the holder was left behind by a fork, which copies no other thread than its own.
  bool abandoned() const;

  py::str swapped_{"swapped"};
  const void* holder_ = nullptr;
  int process_ = 0;
  std::thread::id thread_;
};

/// Holds a lock while it exists.
class Hold {
 public:
  explicit Hold(std::shared_ptr<Busy> busy) : busy_(std::move(busy)) { busy_->take(this); }
  ~Hold() { busy_->leave(this); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  std::shared_ptr<Busy> busy_;
};

/// Calls function(*args) with the lock, and with the floating-point mode in which the numbers of a step are
/// the same whatever other libraries have set.
py::object run_alone(const std::shared_ptr<Busy>& busy, const py::object& function, const py::args& args);

}  // namespace fusedstep
