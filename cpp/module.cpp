// The Python module: arrays in, addresses out; checks that must be fast; the GIL released around the work.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "coefficients.hpp"
#include "dispatch.hpp"
#include "factors.hpp"
#include "numpy.hpp"
#include "parallel.hpp"
#include "pinned_plan.hpp"
#include "row_plan.hpp"
#include "tensor_plan.hpp"

namespace fusedstep {
namespace {

std::vector<std::size_t> overlapping_of(const std::vector<py::array>& arrays) {
  return overlapping(runs_of(arrays));
}

void scale_all(const std::vector<py::array>& arrays, double factor) {
  const std::vector<Run> runs = runs_of(arrays);
  const py::gil_scoped_release release;
  scale(runs, factor);
}

/// A stack of matrices; of fewer than two axes, one row.
Matrices matrices_of(py::array& x) {
  const Run run = runs_of({x}).front();
  if (run.array.number != number_f32 && run.array.number != number_f64)
    throw std::invalid_argument("neither float32 nor float64");
  Matrices matrices{run.array, 1, 1, 1};
  for (py::ssize_t axis = 0; axis < x.ndim(); ++axis) {
    matrices.count *= matrices.rows;
    matrices.rows = matrices.columns;
    matrices.columns = static_cast<std::size_t>(x.shape(axis));
  }
  return matrices;
}

std::pair<py::array_t<double>, py::array_t<double>> square_sums_of(py::array x) {
  const Matrices matrices = matrices_of(x);
  SquareSums sums;
  {
    const py::gil_scoped_release release;
    sums = square_sums(matrices);
  }
  const auto array = [](const std::vector<double>& v) {
    return py::array_t<double>(static_cast<py::ssize_t>(v.size()), v.data());
  };
  return {array(sums.rows), array(sums.columns)};
}

using Factors = py::array_t<double, py::array::c_style | py::array::forcecast>;

void multiply_by(py::array x, const Factors& rows, const Factors& columns, double limit) {
  const Matrices matrices = matrices_of(x);
  const auto fits = [&](const Factors& factors, std::size_t each) {
    return static_cast<std::size_t>(factors.size()) == matrices.count * each;
  };
  if (!x.writeable() || !fits(rows, matrices.rows) || !fits(columns, matrices.columns))
    throw std::invalid_argument("a number for each row and column of something writeable");
  const py::gil_scoped_release release;
  multiply(matrices, rows.data(), columns.data(), limit);
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
  m.def("square_sums", &square_sums_of, py::arg("x"),
        "The sums of squares of the rows, and of the columns, of a stack of matrices in one run of memory.");
  m.def("multiply", &multiply_by, py::arg("x"), py::arg("rows").none(false), py::arg("columns").none(false),
        py::arg("limit"),
        "Multiply its elements by numbers of rows and columns, whose product is at most `limit`.");
  m.def("scale", &scale_all, py::arg("arrays"), py::arg("factor"), "Multiply them.");
  py::class_<PinnedPlan>(m, "Plan", "Parameters and state, pinned: what does not change between steps.")
      .def(py::init<const std::vector<std::string>&, const std::string&, std::vector<PinnedPlan::Entry>>(),
           py::arg("kernels"), py::arg("average"), py::arg("tensors"))
      .def("pin", &PinnedPlan::pin, py::arg("gradients"), py::arg("zero_gradients"),
           "Take a step's gradients; return the positions of those not usable as they are.")
      .def("norm", &PinnedPlan::norm, "The 2-norm of the gradients.")
      .def("measure", &PinnedPlan::measure, py::arg("rows"),
           "Positions of tensors and the sums over each, by group.")
      .def("run", &PinnedPlan::run, py::arg("rows"), py::arg("zero_gradients"), "Do the step.");
  py::class_<RowPlan>(m, "RowPlan", "The step of some rows of an array.")
      .def(py::init<const std::string&, const std::string&, const py::array&, const std::vector<py::array>&,
                    const std::optional<py::array>&, const std::vector<py::array>&>(),
           py::arg("kernel"), py::arg("average"), py::arg("p"), py::arg("state"), py::arg("mean"),
           py::arg("others"))
      .def("take", &RowPlan::take, py::arg("rows"), py::arg("gradients"),
           "Take the gradients of rows; return which rows these are, ascending, each once. None: not usable.")
      .def("norm", &RowPlan::norm, "The 2-norm of the gradients.")
      .def("measure", &RowPlan::measure, py::arg("coefficients"), "The sums over each row.")
      .def("run", &RowPlan::run, py::arg("coefficients"), "Do the step.");
  py::class_<Gathered>(m, "Gathered", "Parameters that have a gradient, with their state.")
      .def(py::init([](const TensorPlan& plan, const py::list& parameters, const py::dict& states,
                       const std::vector<py::str>& keys, const std::vector<py::str>& number_keys,
                       bool averaged) {
             return Gathered(plan.exchange(), parameters, states, keys, number_keys, averaged);
           }),
           py::arg("plan"), py::arg("parameters"), py::arg("states"), py::arg("keys"), py::arg("number_keys"),
           py::arg("averaged"), py::keep_alive<1, 2>())
      .def("__len__", &Gathered::size)
      .def("lacking", &Gathered::lacking, "Those of whose state something is missing.")
      .def("complete", &Gathered::complete, py::arg("i"), py::arg("state"), py::arg("numbers"),
           "Give a parameter all of its state.")
      .def("replace", &Gathered::replace, py::arg("i"), py::arg("p"), py::arg("g"), py::arg("state"),
           "Have other tensors stepped in the place of a parameter's.")
      .def("alike", &Gathered::alike, py::arg("count"), "The parameters by equal numbers.")
      .def("values", &Gathered::values, py::arg("k"), py::arg("members"), "A number of each.")
      .def("assign", &Gathered::assign, py::arg("k"), py::arg("members"), py::arg("values"),
           "Set a number of each to its own value.")
      .def("sizes", &Gathered::sizes, py::arg("members"), "How many elements each has.")
      .def("fill", &Gathered::fill, py::arg("k"), py::arg("members"), py::arg("value"),
           "Set a number of each.")
      .def("parameters", &Gathered::parameters, py::arg("members") = py::none(), "The parameters.")
      .def("gradients", &Gathered::gradients, py::arg("members") = py::none(), "Their gradients.")
      .def("state", &Gathered::state, py::arg("slot"), py::arg("members") = py::none(),
           "Their tensors of a slot.");
  py::class_<TensorPlan>(m, "TensorPlan", "The step of another library's tensors.")
      .def(py::init<py::type, const std::string&>(), py::arg("kind"), py::arg("average"))
      .def("take", &TensorPlan::take, py::arg("batches"),
           "Take a step's tensors; return the positions of parameters and of gradients not usable as they "
           "are.")
      .def("overlap", &TensorPlan::overlap, "Two positions that share memory, or None.")
      .def("norm", &TensorPlan::norm, "The 2-norm of the gradients.")
      .def("measure", &TensorPlan::measure, py::arg("rows"),
           "Positions of tensors and the sums over each, by batch.")
      .def("run", &TensorPlan::run, py::arg("rows"), "Do the step.");
}

}  // namespace
}  // namespace fusedstep
