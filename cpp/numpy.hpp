// NumPy's arrays and types as the kernels see them.
#pragma once

#include <pybind11/numpy.h>

#include <atomic>
#include <bit>
#include <stdexcept>
#include <vector>

#include "array.hpp"

namespace fusedstep {

namespace py = pybind11;

/// In the machine's byte order, which a dtype may also name outright: "<f4" on a little-endian machine.
inline bool is_native(const py::dtype& dtype) {
  return dtype.byteorder() == '=' ||
         dtype.byteorder() == (std::endian::native == std::endian::little ? '<' : '>');
}

/// NumPy numbers the types that other packages register in the order in which they do; ml_dtypes' bfloat16
/// has whatever number it got when it was imported.
inline bool is_bfloat16(const py::dtype& dtype) {
  constexpr int first_registered = 256;
  static std::atomic<int> known = -1;
  if (dtype.num() == known) return true;
  if (dtype.num() < first_registered || !py::str(dtype.attr("name")).equal(py::str("bfloat16"))) return false;
  known = dtype.num();
  return true;
}

/// What the elements of an array of this type are, or none of the numbers.
inline Number number(const py::dtype& dtype) {
  constexpr int half = 23;
  if (!is_native(dtype)) return numbers;
  if (dtype.num() == py::dtype::num_of<float>()) return number_f32;
  if (dtype.num() == py::dtype::num_of<double>()) return number_f64;
  if (dtype.num() == half) return number_f16;
  return is_bfloat16(dtype) ? number_bf16 : numbers;
}

inline Number checked_number(const py::dtype& dtype) {
  if (number(dtype) == numbers) throw std::invalid_argument("no kernel for this dtype");
  return number(dtype);
}

/// Arrays that are single runs of memory.
inline std::vector<Run> runs_of(const std::vector<py::array>& arrays) {
  std::vector<Run> runs;
  for (const py::array& array : arrays) {
    if ((array.flags() & py::array::c_style) == 0) throw std::invalid_argument("not one run of memory");
    runs.push_back({{checked_number(array.dtype()), const_cast<void*>(array.data())},
                    static_cast<std::size_t>(array.size())});
  }
  return runs;
}

/// The same shape, and, counted in elements, the same strides.
inline bool lies_as(const py::array& g, const py::array& p) {
  if (g.ndim() != p.ndim()) return false;
  for (py::ssize_t axis = 0; axis < g.ndim(); ++axis) {
    if (g.shape()[axis] != p.shape()[axis]) return false;
    if (g.shape()[axis] != 1 && p.size() != 0 &&
        g.strides()[axis] * p.itemsize() != p.strides()[axis] * g.itemsize())
      return false;
  }
  return true;
}

}  // namespace fusedstep
