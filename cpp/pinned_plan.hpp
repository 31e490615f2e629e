// The plan of NumPy's arrays.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "coefficients.hpp"
#include "numpy.hpp"

namespace fusedstep {

/// A plan and the arrays whose addresses it holds.
class PinnedPlan {
 public:
  /// The group, the parameter, its state, and the average of its weights if one is kept.
  using Entry = std::tuple<std::size_t, py::array, std::vector<py::array>, std::optional<py::array>>;

  PinnedPlan(const std::vector<std::string>& kernels, const std::string& average, std::vector<Entry> entries)
      : ndarray_(py::module_::import("numpy").attr("ndarray")),
        plan_(plan(kernels, kernel_index(average), entries)),
        entries_(std::move(entries)) {}

  /// Takes a step's gradients, one for each parameter or None. Returns the positions of those that the
  /// kernels cannot use as they are; unless there are none, run() refuses. Gradients that will be zeroed must
  /// be apart from one another.
  std::vector<std::size_t> pin(const py::list& gradients, bool zero_gradients) {
    if (gradients.size() != entries_.size())
      throw std::invalid_argument("one gradient or None for each parameter");
    pinned_ = false;
    std::vector<std::size_t> odd;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const py::handle g = PyList_GET_ITEM(gradients.ptr(), static_cast<py::ssize_t>(i));
      plan_.tensors()[i].stepped = !g.is_none();
      if (!g.is_none() && !take(g, i, zero_gradients)) odd.push_back(i);
    }
    if (zero_gradients && odd.empty()) odd = overlapping(plan_.gradients());
    pinned_ = odd.empty();
    return odd;
  }

  /// The 2-norm of the gradients, and whether all their elements are finite.
  std::pair<double, bool> norm() const {
    if (!pinned_) throw no_gradients();
    return norm_of(plan_.gradients());
  }

  /// What the coefficients of tensors depend on, by group.
  std::vector<Measured> measure(const std::vector<Coefficients>& groups) const {
    if (!pinned_) throw no_gradients();
    return fusedstep::measure(plan_, groups);
  }

  /// Does the step, once for each time that the gradients are pinned: nothing keeps them alive beyond.
  void run(const std::vector<Coefficients>& groups, bool zero_gradients) {
    if (!pinned_) throw no_gradients();
    const std::vector<Row> rows = rows_for(plan_, groups);
    pinned_ = false;
    const py::gil_scoped_release release;
    plan_.run(rows, zero_gradients);
  }

 private:
  static std::logic_error no_gradients() {
    return std::logic_error("no gradients, or some that cannot be used as they are");
  }

  static Plan plan(const std::vector<std::string>& names, std::size_t average, std::vector<Entry>& entries) {
    std::vector<std::size_t> kernels;
    for (const std::string& name : names) kernels.push_back(kernel_index(name));
    std::vector<Tensor> tensors;
    for (auto& [group, p, state, mean] : entries) {
      if (state.size() != active().kernels[kernels.at(group)].slots)
        throw std::invalid_argument("wrong number of state slots for " + names[group]);
      const Number number = checked_number(p.dtype());
      Tensor tensor{group,
                    static_cast<std::size_t>(p.size()),
                    {number, p.mutable_data()},
                    {number, nullptr},
                    number,
                    {},
                    nullptr,
                    false};
      for (std::size_t slot = 0; slot < state.size(); ++slot) {
        tensor.kept = checked_number(state[slot].dtype());
        tensor.state.at(slot) = state[slot].mutable_data();
      }
      if (mean) {
        tensor.kept = checked_number(mean->dtype());
        tensor.average = mean->mutable_data();
      }
      if (!mix(number, tensor.kept)) throw std::invalid_argument("float64 mixes with no other type");
      tensors.push_back(tensor);
    }
    return {std::move(kernels), average, std::move(tensors)};
  }

  /// Takes the gradient of parameter i, if its numbers can be mixed with the parameter's, its shape and order
  /// in memory are the parameter's, and it lies apart from all that the step writes.
  bool take(py::handle object, std::size_t i, bool writes) {
    if (!py::type::handle_of(object).is(ndarray_)) return false;
    const auto g = py::reinterpret_borrow<py::array>(object);
    const py::array& p = std::get<1>(entries_[i]);
    Tensor& tensor = plan_.tensors()[i];
    const Number found = g.dtype().is(p.dtype()) ? tensor.p.number : number(g.dtype());
    if (found == numbers || !mix(found, tensor.p.number)) return false;
    if (!p.writeable() || (writes && !g.writeable())) return false;
    if ((g.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) return false;
    if (!lies_as(g, p)) return false;
    const Array array{found, const_cast<void*>(g.data())};
    // One that passed last time need not be looked up again.
    const bool same = array.data == tensor.g.data && array.number == tensor.g.number;
    if (!same && plan_.touches(array.data, tensor.size * width(found))) return false;
    tensor.g = array;
    return true;
  }

  py::object ndarray_;
  Plan plan_;
  std::vector<Entry> entries_;
  bool pinned_ = false;
};

}  // namespace fusedstep
