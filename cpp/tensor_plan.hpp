// The plan of tensors that belong to another library.
#pragma once

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "dlpack.hpp"
#include "rows.hpp"

namespace fusedstep {

/// Tensors may be replaced or moved between any two steps, so each step takes them anew; what has been
/// checked is remembered, and holds as long as they are where they were.
class TensorPlan {
 public:
  /// Tensors that share a kernel and its coefficients: its name, the parameters, the gradients, each state
  /// slot's tensors, and the averages if they are kept.
  using Batch = std::tuple<std::string, py::list, py::list, std::vector<py::list>, std::optional<py::list>>;
  /// The batch and the place in it.
  using Position = std::pair<std::size_t, std::size_t>;

  /// `type` is the class of the tensors.
  TensorPlan(py::type type, const std::string& average);

  /// What gather() finds, position by position.
  struct Gathered {
    py::list parameters, gradients;    // of the parameters that have a gradient
    std::vector<py::list> state;       // by key; None where it is missing
    std::vector<py::list> numbers;     // the same for the keys of single numbers
    std::vector<py::list> values;      // of the numbers; 0 where they are missing
    std::vector<std::size_t> lacking;  // the positions at which something is missing
  };

  /// Looks up the gradients, and what `states` has for each parameter under `keys` and `number_keys`.
  Gathered gather(const py::list& parameters, const py::dict& states, const std::vector<py::str>& keys,
                  const std::vector<py::str>& number_keys) const;

  /// Takes a step's tensors. Returns the positions at which parameter or state cannot be used as they are,
  /// and those where the gradient alone cannot; unless there are none, run() refuses.
  std::pair<std::vector<Position>, std::vector<Position>> take(const std::vector<Batch>& batches);

  /// Two positions where a parameter or its state shares memory with another's, if there are such.
  std::optional<std::pair<Position, Position>> overlap() const;

  /// The 2-norm of the gradients, and whether all their elements are finite.
  std::pair<double, bool> norm() const;

  /// Does the step.
  void run(const std::vector<Coefficients>& rows);

  /// Sets tensors of one element.
  void fill(const py::list& scalars, double value) const;

 private:
  double value(py::handle scalar) const;
  Position position(std::size_t tensor) const;
  bool take_parameter(Tensor& tensor, const View& p, const Batch& batch, std::size_t i) const;

  Exchange exchange_;
  std::size_t average_;
  std::optional<Plan> plan_;
  bool taken_ = false;
};

}  // namespace fusedstep
