// Arrays that must stay as they are.
#pragma once

#include <pybind11/numpy.h>

#include <cstddef>
#include <optional>
#include <vector>

namespace fusedstep {

namespace py = pybind11;

/// Where arrays lie, and their types and shapes. NumPy lets these change in place, under whoever has the
/// array.
class Layouts {
 public:
  explicit Layouts(std::vector<py::array> arrays);

  /// The position of the first array that is no longer as it was; nothing if all are.
  std::optional<std::size_t> changed() const;

 private:
  struct Layout {
    py::array array;
    const void* data;
    py::object type;
    std::vector<py::ssize_t> axes;  // the lengths, then the strides
  };

  std::vector<Layout> layouts_;
};

}  // namespace fusedstep
