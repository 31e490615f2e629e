// The Python module: arrays in, addresses out; checks that must be fast; the GIL released around the work.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "dispatch.hpp"
#include "numpy.hpp"
#include "parallel.hpp"
#include "plan.hpp"
#include "reduce.hpp"

namespace fusedstep {
namespace {

std::pair<double, bool> norm_of(const std::vector<Run>& runs) {
  const py::gil_scoped_release release;
  const Norm found = norm(runs);
  return {found.value, found.finite};
}

std::size_t kernel_index(const std::string& name) {
  const Table& table = active();
  for (std::size_t i = 0; i < table.size; ++i)
    if (table.kernels[i].name == name) return i;
  throw std::invalid_argument("no kernel named '" + name + "'");
}

/// A plan and the arrays whose addresses it holds.
class PinnedPlan {
 public:
  /// The group, the parameter, its state, and the average of its weights if one is kept.
  using Entry = std::tuple<std::size_t, py::array, std::vector<py::array>, std::optional<py::array>>;
  /// A group's coefficients: of the prologue, of the rule, and of the averages if any are kept.
  using Coefficients = std::tuple<py::dict, py::dict, std::optional<py::dict>>;

  PinnedPlan(const std::vector<std::string>& kernels, const std::string& average, std::vector<Entry> entries)
      : ndarray_(py::module_::import("numpy").attr("ndarray")),
        average_(kernel_index(average)),
        plan_(plan(kernels, average_, entries)),
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
      if (g.is_none())
        plan_.tensors()[i].g.data = nullptr;
      else if (!take(g, i, zero_gradients))
        odd.push_back(i);
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

  /// Does the step, once for each time that the gradients are pinned: nothing keeps them alive beyond.
  void run(const std::vector<Coefficients>& groups, bool zero_gradients) {
    if (!pinned_) throw no_gradients();
    const std::vector<std::size_t>& kernels = plan_.kernels();
    if (groups.size() != kernels.size()) throw std::invalid_argument("coefficients for each group");
    std::vector<Row> rows;
    for (std::size_t group = 0; group < kernels.size(); ++group) {
      const auto& [prologue, rule, average] = groups[group];
      Row& row = rows.emplace_back();
      append(row.rule, prologue);
      append(row.rule, rule);
      check(kernels[group], row.rule);
      if (!average) continue;
      row.average = no_prologue();
      append(row.average, *average);
      check(average_, row.average);
    }
    for (const Tensor& tensor : plan_.tensors())
      if (tensor.average != nullptr && rows[tensor.group].average.empty())
        throw std::invalid_argument("coefficients of the average for each group that keeps one");
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
                    nullptr};
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

  static void append(std::vector<double>& row, const py::dict& values) {
    for (const auto& [name, value] : values) row.push_back(value.cast<double>());
  }

  static void check(std::size_t kernel, const std::vector<double>& row) {
    const Kernel& wanted = active().kernels[kernel];
    if (row.size() != c_rule + wanted.coefficients)
      throw std::invalid_argument(std::string("wrong number of coefficients for ") + wanted.name);
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
  std::size_t average_;
  Plan plan_;
  std::vector<Entry> entries_;
  bool pinned_ = false;
};

std::vector<std::size_t> overlapping_of(const std::vector<py::array>& arrays) {
  return overlapping(runs_of(arrays));
}

void scale_all(const std::vector<py::array>& arrays, double factor) {
  const std::vector<Run> runs = runs_of(arrays);
  const py::gil_scoped_release release;
  scale(runs, factor);
}

py::dict kernels() {
  py::dict list;
  for (std::size_t i = 0; i < active().size; ++i) {
    const Kernel& kernel = active().kernels[i];
    list[kernel.name] = py::make_tuple(kernel.slots, kernel.coefficients);
  }
  return list;
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Table* table : available()) names.emplace_back(table->isa);
  return names;
}

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native half of fusedstep.";
  m.attr("version") = FUSEDSTEP_VERSION;
  m.attr("tile") = Tiles::size;
  m.def("kernels", &kernels, "State slots and coefficients of each compiled rule.");
  m.def("isas", &isas, "The instruction sets that can run here, slowest first.");
  m.def("isa", [] { return active().isa; }, "The instruction set in use.");
  m.def("use_isa", &use, py::arg("name"), "Choose the instruction set.");
  m.def("num_threads", &num_threads, "The threads that a step may use.");
  m.def("set_num_threads", &set_num_threads, py::arg("threads"), "Set them.");
  m.def(
      "norm", [](const std::vector<py::array>& arrays) { return norm_of(runs_of(arrays)); },
      py::arg("arrays"),
      "The 2-norm of all elements of arrays that are single runs of memory; whether all are finite.");
  m.def("overlapping", &overlapping_of, py::arg("arrays"),
        "The positions of those that begin in another's memory.");
  m.def("scale", &scale_all, py::arg("arrays"), py::arg("factor"), "Multiply them.");
  py::class_<PinnedPlan>(m, "Plan", "Parameters and state, pinned: what does not change between steps.")
      .def(py::init<const std::vector<std::string>&, const std::string&, std::vector<PinnedPlan::Entry>>(),
           py::arg("kernels"), py::arg("average"), py::arg("tensors"))
      .def("pin", &PinnedPlan::pin, py::arg("gradients"), py::arg("zero_gradients"),
           "Take a step's gradients; return the positions of those not usable as they are.")
      .def("norm", &PinnedPlan::norm, "The 2-norm of the gradients.")
      .def("run", &PinnedPlan::run, py::arg("rows"), py::arg("zero_gradients"), "Do the step.");
}

}  // namespace
}  // namespace fusedstep
