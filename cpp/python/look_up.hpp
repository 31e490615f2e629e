// Reading dictionaries that other threads may change.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedstep {

namespace py = pybind11;

/// A string that exists once, which dictionaries find fastest. It is never released.
inline py::handle interned(const char* text) {
  PyObject* const string = PyUnicode_InternFromString(text);
  if (string == nullptr) throw py::error_already_set();
  return string;
}

/// The value of a key; an empty object if the dictionary does not have the key.
inline py::object look_up(py::handle dictionary, py::handle key) {
#if PY_VERSION_HEX >= 0x030D0000
  PyObject* found = nullptr;
  if (PyDict_GetItemRef(dictionary.ptr(), key.ptr(), &found) < 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
#else
  PyObject* const found = PyDict_GetItemWithError(dictionary.ptr(), key.ptr());
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return py::reinterpret_borrow<py::object>(found);
#endif
}

}  // namespace fusedstep
