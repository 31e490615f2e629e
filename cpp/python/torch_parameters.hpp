// The parameters of a step, with their gradients and state, as Python keeps them.
#pragma once

#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "python/ahead.hpp"
#include "python/changes.hpp"
#include "python/dlpack.hpp"
#include "python/torch_rows.hpp"
#include "python/torch_scalar.hpp"
#include "step/plan.hpp"

namespace fusedstep {

/// Whether steps of a and b write to the same memory, in the same group.
inline bool same_memory(const Tensor& a, const Tensor& b) {
  return a.group == b.group && a.size == b.size && a.p == b.p && a.state == b.state && a.average == b.average;
}

/// Parameters that have a gradient, with gradient and state, looked up in one pass: the objects and where
/// their elements are. Python may replace them between any two steps, so each step looks them up again; what
/// the look-up before has found tells only what has changed since, and where memory will be read.
class TorchParameters {
 public:
  /// The positions of some of the parameters; nothing stands for all.
  using Members = std::optional<std::vector<std::size_t>>;

  /// The parameters are stepped by the kernel with these sweeps. `keys` are the keys, in a parameter's state,
  /// of the tensors of the rule's slots and, last, of the average if it is kept; under `scalar_keys` there
  /// are tensors of one element.
  TorchParameters(const Exchange& exchange, const std::vector<std::string>& kernel, std::vector<py::str> keys,
                  std::vector<py::str> scalar_keys, bool averaged);

  /// Looks up those of the parameters that have a gradient. `states` has a dictionary for each. Returns
  /// whether the state of all is complete.
  bool look(const py::list& parameters, const py::dict& states);

  /// The positions of those whose state is incomplete.
  const std::vector<std::size_t>& lacking() const { return lacking_; }

  /// Lets the tensors go.
  void release();

  /// A number that no other state of this or another object has: it changes when anything but a gradient is
  /// found elsewhere than before.
  std::uint64_t version() const { return version_; }

  const Sweeps& kernel() const { return kernel_; }

  std::size_t size() const { return tensors_.size(); }

  /// Gives a parameter all of its state.
  void complete(std::size_t i, const py::list& state, const py::list& scalars);

  /// Replaces a parameter, its gradient and its state by other tensors.
  void replace(std::size_t i, const py::object& p, const py::object& g, const py::list& state);

  /// Makes rows the gradient of a parameter: `indices` is an int64 tensor of the rows' indices, `values` has
  /// the gradient of each. Returns false if something cannot be used as it is; throws py::index_error if the
  /// parameter lacks a row.
  bool take_rows(std::size_t i, py::handle indices, const py::object& values);

  /// Groups the parameters whose first `count` scalars are equal: returns these scalars and the members of
  /// each group.
  std::vector<std::pair<std::vector<double>, Members>> alike(std::size_t count) const;

  /// Whether the first `count` scalars of all parameters, of which there are some, are equal.
  bool are_alike(std::size_t count) const;
  /// The k-th scalar of the first parameter.
  double first(std::size_t k) const { return scalar(0, k).value; }

  /// The k-th scalar of each member.
  std::vector<double> values(std::size_t k, const Members& members) const;

  /// Adds to `changes` that the k-th scalar of all members has one value, or that of each member its own.
  void fill(Changes& changes, std::size_t k, const Members& members, double value) const;
  void assign(Changes& changes, std::size_t k, const Members& members,
              const std::vector<double>& values) const;

  /// Adds the memory of a parameter's scalars to `runs`.
  void add_scalars(std::size_t i, std::vector<Run>& runs) const;

  /// The number of elements of each member.
  std::vector<std::size_t> sizes(const Members& members) const;

  const py::object& parameter(std::size_t i) const { return object(i, 0); }
  py::list parameters(const Members& members) const { return column(0, members); }
  py::list gradients(const Members& members) const { return column(1, members); }
  /// The tensors of a slot.
  py::list state(std::size_t slot, const Members& members) const { return column(2 + slot, members); }

  /// What the kernels need to know about a parameter.
  const Tensor& tensor(std::size_t i) const { return tensors_[i]; }
  /// Whether the kernels can step the parameter and its state as they are, and whether they can use its
  /// gradient.
  bool fits(std::size_t i) const { return fits_[i]; }
  bool gradient_fits(std::size_t i) const { return tensors_[i].stepped; }

  /// The rows of a parameter that have a gradient; null if its gradient is not rows.
  std::shared_ptr<TorchRows> rows(std::size_t i) const {
    const auto found = rows_.find(i);
    return found == rows_.end() ? nullptr : found->second;
  }

  /// The number of slots of each parameter, without the average.
  std::size_t slots() const { return slots_ - averaged_; }
  std::size_t size(const Members& members) const { return members ? members->size() : size(); }

  template <class Function>
  void for_each(const Members& members, const Function& function) const {
    if (members)
      for (const std::size_t i : *members) function(i);
    else
      for (std::size_t i = 0; i < size(); ++i) function(i);
  }

 private:
  const TorchScalar& scalar(std::size_t i, std::size_t k) const { return found_scalars_[i * scalars_ + k]; }
  py::object& object(std::size_t i, std::size_t kind) { return objects_[i * kinds_ + kind]; }
  const py::object& object(std::size_t i, std::size_t kind) const { return objects_[i * kinds_ + kind]; }
  py::list column(std::size_t kind, const Members& members) const;
  std::optional<View> view(const py::object& tensor) const;
  /// The same of an object that the next look-up will most likely find again.
  std::optional<View> view(std::size_t i, std::size_t kind);
  void note(std::size_t i, std::size_t kind, const View& view);
  /// Has room for so many parameters.
  void resize(std::size_t size);
  /// Takes a parameter that has a gradient.
  void take(std::size_t i, py::object p, py::object g, const py::object& state);
  void take_scalar(std::size_t i, std::size_t k);
  /// Looks up where the elements of parameter i, its gradient and its state are.
  void find_memory(std::size_t i);
  bool find_state(Tensor& tensor, const View& p, std::size_t i);

  const Exchange& exchange_;
  Sweeps kernel_;
  std::vector<py::str> keys_, scalar_keys_;
  std::size_t slots_, scalars_, kinds_;
  bool averaged_;
  std::vector<py::object> objects_;  // of each parameter: itself, its gradient, the slots, the scalars
  std::vector<TorchScalar> found_scalars_;
  std::vector<Tensor> tensors_;
  std::vector<bool> fits_;
  std::map<std::size_t, std::shared_ptr<TorchRows>> rows_;
  std::vector<std::size_t> lacking_;
  std::uint64_t version_;
  Ahead ahead_;
};

}  // namespace fusedstep
