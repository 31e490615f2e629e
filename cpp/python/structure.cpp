#include "python/structure.hpp"

#include <utility>

#include "python/look_up.hpp"

namespace fusedstep {
namespace {

bool is_series(py::handle tree) { return PyList_CheckExact(tree.ptr()) || PyTuple_CheckExact(tree.ptr()); }

/// A copy, since others may change a list.
py::list listed(py::handle series) {
  PyObject* const list = PySequence_List(series.ptr());
  if (list == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::list>(list);
}

/// Adds the leaves of one container; returns false if it has another form.
bool add(const Structure::Form& form, py::handle tree, py::list& leaves) {
  if (const auto* const count = std::get_if<std::size_t>(&form)) {
    if (!is_series(tree)) return false;
    const py::list found = listed(tree);
    if (found.size() != *count) return false;
    for (const py::handle leaf : found) leaves.append(leaf);
    return true;
  }
  if (const auto* const names = std::get_if<py::tuple>(&form)) {
    if (!PyDict_CheckExact(tree.ptr()) || PyDict_Size(tree.ptr()) != PyTuple_GET_SIZE(names->ptr()))
      return false;
    for (const py::handle name : *names) {
      const py::object leaf = look_up(tree, name);
      if (!leaf) return false;
      leaves.append(leaf);
    }
    return true;
  }
  leaves.append(tree);
  return true;
}

}  // namespace

Structure::Structure(std::vector<Form> groups, Form flat)
    : groups_(std::move(groups)), flat_(std::move(flat)) {}

std::optional<py::list> Structure::gradients(py::handle tree) const {
  py::list leaves;
  if (groups_.empty() || PyDict_CheckExact(tree.ptr()))
    return add(flat_, tree, leaves) ? std::optional(leaves) : std::nullopt;
  if (!is_series(tree)) return {};
  const py::list trees = listed(tree);
  if (trees.size() != groups_.size()) return {};
  for (std::size_t k = 0; k < groups_.size(); ++k)
    if (!add(groups_[k], trees[k], leaves)) return {};
  return leaves;
}

}  // namespace fusedstep
