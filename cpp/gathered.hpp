// The parameters of a step, with their gradients and state, as Python keeps them.
#pragma once

#include <pybind11/stl.h>

#include <optional>
#include <utility>
#include <vector>

#include "dlpack.hpp"
#include "plan.hpp"

namespace fusedstep {

/// Parameters that have a gradient, looked up in one pass over all that belongs to each: the objects and
/// where their elements are. They may be replaced between any two steps, so that each step gathers anew.
class Gathered {
 public:
  /// Which of the parameters; all without.
  using Members = std::optional<std::vector<std::size_t>>;

  /// `states` has a dictionary for each parameter. Its entries under `keys` are the tensors of the rule's
  /// slots, and of the average last if it is kept; those under `number_keys` have one element.
  Gathered(const Exchange& exchange, const py::list& parameters, const py::dict& states,
           const std::vector<py::str>& keys, const std::vector<py::str>& number_keys, bool averaged);

  std::size_t size() const { return tensors_.size(); }

  /// Those of whose state something is missing.
  const std::vector<std::size_t>& lacking() const { return lacking_; }

  /// Gives a parameter all of its state.
  void complete(std::size_t i, const py::list& state, const py::list& numbers);

  /// Has other tensors stepped in the place of a parameter, its gradient and its state.
  void replace(std::size_t i, const py::object& p, const py::object& g, const py::list& state);

  /// The parameters by equal numbers, of which the first `count` are compared: the numbers, and whose they
  /// are.
  std::vector<std::pair<std::vector<double>, Members>> alike(std::size_t count) const;

  /// The k-th number of each.
  std::vector<double> values(std::size_t k, const Members& members) const;

  /// Sets the k-th number of each to one value, or each to its own.
  void fill(std::size_t k, const Members& members, double value) const;
  void assign(std::size_t k, const Members& members, const std::vector<double>& values) const;

  /// How many elements each has.
  std::vector<std::size_t> sizes(const Members& members) const;

  py::list parameters(const Members& members) const { return column(0, members); }
  py::list gradients(const Members& members) const { return column(1, members); }
  /// The tensors of a slot.
  py::list state(std::size_t slot, const Members& members) const { return column(2 + slot, members); }

  /// What the kernels need to know of a parameter.
  const Tensor& tensor(std::size_t i) const { return tensors_[i]; }
  /// Whether they can step its memory, but for the gradient.
  bool fits(std::size_t i) const { return fits_[i]; }
  bool gradient_fits(std::size_t i) const { return tensors_[i].stepped; }

  template <class Function>
  void for_each(const Members& members, const Function& function) const {
    if (members)
      for (const std::size_t i : *members) function(i);
    else
      for (std::size_t i = 0; i < size(); ++i) function(i);
  }

 private:
  /// A tensor of one element, in float32 or float64.
  struct Number {
    Array array{};
    double value = 0;
  };

  Number look_at(const py::object& number) const;
  const Number& number(std::size_t i, std::size_t k) const { return numbers_of_[i * numbers_ + k]; }
  py::object& object(std::size_t i, std::size_t kind) { return objects_[i * kinds_ + kind]; }
  const py::object& object(std::size_t i, std::size_t kind) const { return objects_[i * kinds_ + kind]; }
  void set(std::size_t i, std::size_t k, double value) const;
  py::list column(std::size_t kind, const Members& members) const;
  std::optional<View> view(const py::object& tensor) const;
  /// Looks where the elements are.
  void look(std::size_t i);
  bool look_at_state(Tensor& tensor, const View& p, std::size_t i) const;

  const Exchange& exchange_;
  std::size_t slots_, numbers_, kinds_;
  bool averaged_;
  std::vector<py::object> objects_;  // of each parameter: itself, its gradient, the slots, the numbers
  std::vector<Number> numbers_of_;
  std::vector<Tensor> tensors_;
  std::vector<bool> fits_;
  std::vector<std::size_t> lacking_;
};

}  // namespace fusedstep
