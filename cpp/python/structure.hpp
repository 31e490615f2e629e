// The containers in which gradients come.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <optional>
#include <variant>
#include <vector>

namespace fusedstep {

namespace py = pybind11;

/// The containers of arrays/structure.py in their plain forms, whose reading runs no code of others.
class Structure {
 public:
  /// One array, so many in a sequence, or a mapping with these names.
  using Form = std::variant<std::monostate, std::size_t, py::tuple>;

  /// `groups` has the form of each group; it is empty unless the parameters were given in groups.
  Structure(std::vector<Form> groups, Form flat);

  /// The gradients in the order of the parameters; nothing if they come in no array, list, tuple or dict, or
  /// if some lack or are too many.
  std::optional<py::list> gradients(py::handle tree) const;

 private:
  std::vector<Form> groups_;
  Form flat_;
};

}  // namespace fusedstep
