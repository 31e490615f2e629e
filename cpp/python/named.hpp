// Puts values that Python gives by name into the order of a struct's fields.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fusedstep {

namespace py = pybind11;

/// The names of a struct's fields, as interned strings, which Python's dictionaries find fastest.
class Fields {
 public:
  /// `owner` is the struct's name in errors; `names` are separated by a comma and a space.
  Fields(std::string owner, std::string_view names);

  std::size_t size() const { return names_.size(); }

  /// Puts each value in its field's place. `more` names the fields whose values come from elsewhere. Throws
  /// std::invalid_argument for a name that is no field or is in `more` too, and, unless `partial`, for a
  /// field without a value.
  void place(const py::dict& values, const std::optional<py::dict>& more, bool partial, double* to) const;

  /// The place of the field with this name; throws std::invalid_argument if there is none.
  std::size_t place_of(py::handle name) const;

 private:
  /// Does so without looking up names if they come in the order of the fields, as they most often do;
  /// otherwise returns false.
  bool place_in_order(const py::dict& values, double* to) const;

  [[noreturn]] void refuse(const std::string& what, py::handle name) const;

  std::string owner_;
  std::vector<py::handle> names_;  // never released, as interned strings need not be
};

/// The fields of the kernel with this index, and of the prologue.
const Fields& fields_of(std::size_t kernel);
const Fields& fields_of_prologue();

}  // namespace fusedstep
