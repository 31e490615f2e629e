#include "python/named.hpp"

#include <stdexcept>
#include <utility>

#include "python/look_up.hpp"
#include "step/coefficients.hpp"
#include "step/dispatch.hpp"

namespace fusedstep {
namespace {

double number(PyObject* value) {
  const double found = PyFloat_AsDouble(value);
  if (found == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return found;
}

}  // namespace

Fields::Fields(std::string owner, std::string_view names) : owner_(std::move(owner)) {
  for (const std::string_view name : separate(names)) names_.push_back(interned(std::string(name).c_str()));
}

void Fields::place(const py::dict& values, const std::optional<py::dict>& more, bool partial,
                   double* to) const {
  if (!more && place_in_order(values, to)) return;
  std::size_t found = 0;
  for (std::size_t k = 0; k < size(); ++k) {
    if (const py::object value = look_up(values, names_[k])) {
      if (more && more->contains(names_[k])) refuse(" is given twice the coefficient ", names_[k]);
      to[k] = number(value.ptr());
      ++found;
    } else if (!partial && !(more && more->contains(names_[k]))) {
      refuse(" lacks the coefficient ", names_[k]);
    }
  }
  if (found == values.size()) return;
  for (const auto& [name, value] : values) place_of(name);
}

bool Fields::place_in_order(const py::dict& values, double* to) const {
  if (values.size() != size()) return false;
  PyObject *name = nullptr, *value = nullptr;
  Py_ssize_t next = 0;
  for (std::size_t k = 0; k < size(); ++k) {
    if (PyDict_Next(values.ptr(), &next, &name, &value) == 0 || name != names_[k].ptr()) return false;
    to[k] = number(value);
  }
  return true;
}

std::size_t Fields::place_of(py::handle name) const {
  for (std::size_t k = 0; k < size(); ++k)
    if (name.is(names_[k]) || name.equal(names_[k])) return k;
  refuse(" has no coefficient ", name);
}

void Fields::refuse(const std::string& what, py::handle name) const {
  throw std::invalid_argument(owner_ + what + py::repr(name).cast<std::string>());
}

const Fields& fields_of(std::size_t kernel) {
  // Never destroyed, since Python may be gone by then.
  static const std::vector<Fields>& of_kernels = *[] {
    auto* const made = new std::vector<Fields>;
    for (std::size_t i = 0; i < active().size; ++i)
      made->emplace_back(active().kernels[i].name, active().kernels[i].coefficients);
    return made;
  }();
  return of_kernels[kernel];
}

const Fields& fields_of_prologue() {
  static const Fields& of_prologue = *new Fields("the prologue", active().prologue);
  return of_prologue;
}

}  // namespace fusedstep
