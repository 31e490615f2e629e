// NumPy's arrays and types as the kernels see them.
#pragma once

#include <pybind11/numpy.h>

#include <atomic>
#include <bit>
#include <stdexcept>
#include <vector>

#include "step/array.hpp"

namespace fusedstep {

namespace py = pybind11;

/// Whether a dtype has the machine's byte order, which it may also name: "<f4" on a little-endian machine.
inline bool is_native(const py::dtype& dtype) {
  return dtype.byteorder() == '=' ||
         dtype.byteorder() == (std::endian::native == std::endian::little ? '<' : '>');
}

/// Whether a dtype is ml_dtypes' bfloat16. NumPy numbers the types of other packages in the order in which
/// they are registered, so that its number depends on when it was imported.
inline bool is_bfloat16(const py::dtype& dtype) {
  constexpr int first_registered = 256;
  static std::atomic<int> known = -1;
  if (dtype.num() == known) return true;
  if (dtype.num() < first_registered || !py::str(dtype.attr("name")).equal(py::str("bfloat16"))) return false;
  known = dtype.num();
  return true;
}

/// The format of arrays of this dtype, or `formats` if there is none.
inline Format format_of(const py::dtype& dtype) {
  constexpr int half = 23;
  if (!is_native(dtype)) return formats;
  if (dtype.num() == py::dtype::num_of<float>()) return format_f32;
  if (dtype.num() == py::dtype::num_of<double>()) return format_f64;
  if (dtype.num() == half) return format_f16;
  return is_bfloat16(dtype) ? format_bf16 : formats;
}

inline Format checked_format(const py::dtype& dtype) {
  if (format_of(dtype) == formats) throw std::invalid_argument("no kernel for this dtype");
  return format_of(dtype);
}

/// The memory of arrays; throws std::invalid_argument unless each is one run of memory.
inline std::vector<Run> runs_of(const std::vector<py::array>& arrays) {
  std::vector<Run> runs;
  for (const py::array& array : arrays) {
    if ((array.flags() & py::array::c_style) == 0) throw std::invalid_argument("not one run of memory");
    runs.push_back({{checked_format(array.dtype()), const_cast<void*>(array.data())},
                    static_cast<std::size_t>(array.size())});
  }
  return runs;
}

/// Whether both have the same shape and, counted in elements, the same strides.
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
