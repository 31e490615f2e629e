// What a step or a load changes besides its pass over memory.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "python/torch_scalar.hpp"

namespace fusedstep {

namespace py = pybind11;

/// New entries of dictionaries and new elements of arrays, which are collected first and then all written at
/// once: in one call, which no interrupt divides, and in which nothing fails.
class Changes {
 public:
  using Indices = py::array_t<std::int64_t, py::array::c_style>;

  /// The entries of `values` will be in `target`.
  void update(const py::dict& target, const py::dict& values);

  /// The elements of `source` will be in `target`, which has the same shape, and elements of the same width.
  /// If `negated`, the signs of floating-point numbers change.
  void copy(py::array target, const py::array& source, bool negated);

  /// Row k of `source` will be row rows[k] of `target`; each row of each array is one run of memory.
  void put(py::array target, const Indices& rows, const py::array& source);

  /// The value will be in the scalar.
  void set(const TorchScalar& scalar, double value) { scalars_.emplace_back(scalar, value); }

  /// Adds all changes of `others`; they are written after those that are here already.
  void extend(const Changes& others);

  /// Forgets all changes.
  void forget() noexcept;

  /// What the others change will be again as it is now. Entries that are new in a dictionary stay.
  void restore(const Changes& others);

  /// Writes everything.
  void write() const;

  /// The same in two parts, for a step, whose pass comes between them: dictionaries and scalars, then arrays.
  void write_before() const;
  void write_after() const noexcept;

 private:
  struct Axis {
    std::size_t length;
    std::ptrdiff_t to, from;  // in bytes, from one element to the next
  };
  struct Copy {
    char* to;
    const char* from;
    std::size_t width;  // of an element, in bytes
    bool negated;
    std::vector<Axis> axes;  // the one with the longest steps first
  };

  struct Put {
    char* to;
    const char* from;
    std::ptrdiff_t to_step, from_step;  // in bytes, from one row to the next
    std::size_t width;                  // of a row, in bytes
    const std::int64_t* rows;
    std::size_t count;
  };

  /// Adds the keys that dictionaries lack, after which an update takes no memory; after an error, none.
  void add_keys() const;

  static void write_axes(const Copy& copy, std::size_t axis, char* to, const char* from) noexcept;

  std::vector<std::pair<py::dict, py::dict>> dictionaries_;
  std::vector<py::array> targets_, sources_;  // whose memory the copies have
  std::vector<Copy> copies_;
  std::vector<Put> puts_;
  std::vector<std::pair<TorchScalar, double>> scalars_;
};

}  // namespace fusedstep
