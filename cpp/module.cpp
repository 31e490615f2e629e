// The Python module: arrays in, addresses out; checks that must be fast; the GIL released around the work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <bit>
#include <stdexcept>
#include <string>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "plan.hpp"

namespace py = pybind11;

namespace fusedstep {
namespace {

/// In the machine's byte order, which a dtype may also name outright: "<f4" on a little-endian machine.
bool is_native(const py::dtype& dtype) {
  return dtype.byteorder() == '=' ||
         dtype.byteorder() == (std::endian::native == std::endian::little ? '<' : '>');
}

Number number(const py::dtype& dtype) {
  if (is_native(dtype) && dtype.num() == py::dtype::num_of<float>()) return number_f32;
  if (is_native(dtype) && dtype.num() == py::dtype::num_of<double>()) return number_f64;
  throw std::invalid_argument("no kernel for this dtype");
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
  using Entry = std::tuple<std::size_t, py::array, std::vector<py::array>>;  // group, p, state

  PinnedPlan(const std::vector<std::string>& kernels, const std::vector<Entry>& entries)
      : ndarray_(py::module_::import("numpy").attr("ndarray")), plan_(plan(kernels, entries)) {
    for (const auto& [group, p, state] : entries) {
      parameters_.push_back(p);
      state_.push_back(state);
    }
  }

  /// Takes a step's gradients, one for each parameter or None. Returns the positions of those that the
  /// kernels cannot read as they are; unless there are none, run() refuses.
  std::vector<std::size_t> pin(const py::list& gradients) {
    if (gradients.size() != parameters_.size())
      throw std::invalid_argument("one gradient or None for each parameter");
    pinned_ = false;
    std::vector<std::size_t> odd;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const py::handle g = PyList_GET_ITEM(gradients.ptr(), static_cast<py::ssize_t>(i));
      Tensor& tensor = plan_.tensors()[i];
      if (g.is_none())
        tensor.g = nullptr;
      else if (parameters_[i].writeable() && matches(g, parameters_[i]) && is_apart(g, tensor))
        tensor.g = py::reinterpret_borrow<py::array>(g).data();
      else
        odd.push_back(i);
    }
    pinned_ = odd.empty();
    return odd;
  }

  /// Does the step, once for each time that the gradients are pinned: nothing keeps them alive beyond.
  void run(const py::list& rows) {
    if (!pinned_) throw std::logic_error("no gradients, or some that cannot be read as they are");
    const std::vector<std::size_t>& kernels = plan_.kernels();
    if (rows.size() != kernels.size()) throw std::invalid_argument("one row of coefficients for each group");
    std::vector<std::vector<double>> coefficients;
    for (std::size_t group = 0; group < kernels.size(); ++group)
      coefficients.push_back(row(active().kernels[kernels[group]], rows[group]));
    pinned_ = false;
    const py::gil_scoped_release release;
    plan_.run(coefficients);
  }

 private:
  static Plan plan(const std::vector<std::string>& names, const std::vector<Entry>& entries) {
    std::vector<std::size_t> kernels;
    for (const std::string& name : names) kernels.push_back(kernel_index(name));
    std::vector<Tensor> tensors;
    for (const auto& [group, p, state] : entries) {
      if (state.size() != active().kernels[kernels.at(group)].slots)
        throw std::invalid_argument("wrong number of state slots for " + names[group]);
      Tensor tensor{
          group, number(p.dtype()), static_cast<std::size_t>(p.size()), py::array(p).mutable_data(), nullptr,
          {}};
      for (std::size_t slot = 0; slot < state.size(); ++slot)
        tensor.state.at(slot) = py::array(state[slot]).mutable_data();
      tensors.push_back(tensor);
    }
    return {std::move(kernels), std::move(tensors)};
  }

  static std::vector<double> row(const Kernel& kernel, const py::list& values) {
    if (values.size() != c_rule + kernel.coefficients)
      throw std::invalid_argument(std::string("wrong number of coefficients for ") + kernel.name);
    std::vector<double> row;
    row.reserve(values.size());
    for (const py::handle value : values) row.push_back(value.cast<double>());
    return row;
  }

  /// The same type, numbers, shape and order in memory as the parameter.
  bool matches(py::handle object, const py::array& p) const {
    if (!py::type::handle_of(object).is(ndarray_)) return false;
    const auto g = py::reinterpret_borrow<py::array>(object);
    const py::dtype dtype = g.dtype();
    if (dtype.num() != p.dtype().num() || !is_native(dtype)) return false;
    if ((g.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) return false;
    if (g.ndim() != p.ndim()) return false;
    for (py::ssize_t axis = 0; axis < g.ndim(); ++axis) {
      if (g.shape()[axis] != p.shape()[axis]) return false;
      if (g.strides()[axis] != p.strides()[axis] && g.shape()[axis] != 1 && p.size() != 0) return false;
    }
    return true;
  }

  /// Not in memory that the step writes. An address that passed last time need not be looked up again.
  bool is_apart(py::handle object, const Tensor& tensor) const {
    const auto g = py::reinterpret_borrow<py::array>(object);
    return g.data() == tensor.g || !plan_.touches(g.data(), static_cast<std::size_t>(g.nbytes()));
  }

  py::object ndarray_;
  Plan plan_;
  bool pinned_ = false;
  std::vector<py::array> parameters_;
  std::vector<std::vector<py::array>> state_;
};

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
  m.attr("openmp") = has_openmp();
  m.attr("tile") = Plan::tile;
  m.def("kernels", &kernels, "State slots and coefficients of each compiled rule.");
  m.def("isas", &isas, "The instruction sets that can run here, slowest first.");
  m.def("isa", [] { return active().isa; }, "The instruction set in use.");
  m.def("use_isa", &use, py::arg("name"), "Choose the instruction set.");
  m.def("num_threads", &num_threads, "The threads that a step may use.");
  m.def("set_num_threads", &set_num_threads, py::arg("threads"), "Set them.");
  py::class_<PinnedPlan>(m, "Plan", "Parameters and state, pinned: what does not change between steps.")
      .def(py::init<const std::vector<std::string>&, const std::vector<PinnedPlan::Entry>&>(),
           py::arg("kernels"), py::arg("tensors"))
      .def("pin", &PinnedPlan::pin, py::arg("gradients"),
           "Take a step's gradients; return the positions of those not readable as they are.")
      .def("run", &PinnedPlan::run, py::arg("coefficients"), "Do the step.");
}

}  // namespace
}  // namespace fusedstep
