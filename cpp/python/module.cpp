// The Python module: it turns arrays into addresses, does the checks that must be fast, and releases the GIL
// around the work.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "python/busy.hpp"
#include "python/changes.hpp"
#include "python/coefficients.hpp"
#include "python/foresight.hpp"
#include "python/gil.hpp"
#include "python/layouts.hpp"
#include "python/named.hpp"
#include "python/numpy.hpp"
#include "python/numpy_plan.hpp"
#include "python/numpy_table.hpp"
#include "python/single.hpp"
#include "python/torch_module.hpp"
#include "step/coefficients.hpp"
#include "step/dispatch.hpp"
#include "step/factors.hpp"
#include "step/parallel.hpp"
#include "step/power.hpp"
#include "step/reduce.hpp"

namespace fusedstep {
namespace {

std::vector<std::size_t> overlapping_of(const std::vector<py::array>& arrays) {
  return overlapping(runs_of(arrays));
}

void scale_all(const std::vector<py::array>& arrays, double factor) {
  const std::vector<Run> runs = runs_of(arrays);
  without_gil([&] { scale(runs, factor); });
}

/// An array as a stack of matrices; an array of fewer than two axes is one row.
Matrices matrices_of(py::array& x) {
  const Run run = runs_of({x}).front();
  if (run.array.format != format_f32 && run.array.format != format_f64)
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
  without_gil([&] { sums = square_sums(matrices); });
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
  without_gil([&] { multiply(matrices, rows.data(), columns.data(), limit); });
}

/// Raises the errors of Python's own power.
double power(double x, double exponent) {
  if (!std::isfinite(exponent) || exponent != std::floor(exponent))
    return py::module_::import("math").attr("pow")(x, exponent).cast<double>();
  const double p = whole_power(x, std::abs(exponent));
  if (exponent >= 0) return p;
  if (p == 0) {
    PyErr_SetString(PyExc_ZeroDivisionError, "0 to a negative power");
    throw py::error_already_set();
  }
  return 1 / p;
}

py::dict kernels() {
  py::dict list;
  for (std::size_t i = 0; i < active().size; ++i) {
    const Kernel& kernel = active().kernels[i];
    list[kernel.name] = py::make_tuple(kernel.slots, separate(kernel.coefficients));
  }
  return list;
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Table* table : available()) names.emplace_back(table->isa);
  return names;
}

/// Makes a new object as pybind11 does, but raises MemoryError where pybind11 would use what it did not get.
PyObject* new_object(PyTypeObject* type, PyObject* /*args*/, PyObject* /*keywords*/) {
  PyObject* const self = type->tp_alloc(type, 0);
  if (self != nullptr) reinterpret_cast<py::detail::instance*>(self)->allocate_layout();
  return self;
}

// What threads share is atomic, constant once the module is made, or behind the lock of an optimizer.
PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "The native half of fusedstep.";
  m.attr("version") = FUSEDSTEP_VERSION;
  m.attr("tile") = Tiles::size;
  m.def("kernels", &kernels, "The number of state slots and the names of the coefficients of each rule.");
  m.def("isas", &isas, "The instruction sets that this processor can run, slowest first.");
  m.def("isa", [] { return active().isa; }, "The instruction set in use.");
  m.def("use_isa", &use, py::arg("name"), "Choose the instruction set.");
  m.def("num_threads", &num_threads, "The number of threads that a step may use.");
  m.def("set_num_threads", &set_num_threads, py::arg("threads"),
        "Set the number of threads that a step may use.");
  m.def(
      "norm", [](const std::vector<py::array>& arrays) { return norm_of(runs_of(arrays)); },
      py::arg("arrays"),
      "Return the 2-norm of all elements of arrays, each one run of memory, and whether all are finite.");
  m.def("overlapping", &overlapping_of, py::arg("arrays"),
        "The positions of the arrays that begin inside the memory of another array.");
  m.def("square_sums", &square_sums_of, py::arg("x"),
        "The sums of squares of the rows and of the columns of a stack of matrices in one run of memory.");
  m.def("multiply", &multiply_by, py::arg("x"), py::arg("rows").none(false), py::arg("columns").none(false),
        py::arg("limit"),
        "Multiply each element of matrices by its row's factor times its column's, by at most `limit`.");
  m.def("scale", &scale_all, py::arg("arrays"), py::arg("factor"),
        "Multiply all elements of arrays by `factor`.");
  m.def("step_single", &step_single, py::arg("kernel"), py::arg("coefficients"), py::arg("p"), py::arg("g"),
        py::arg("state"), py::arg("average"),
        "Run a kernel over one array with these coefficients; arrays of uint16 have the bits of bfloat16.");
  m.def("clip_coefficient", &clip_coefficient, py::arg("norm"), py::arg("limit"),
        "The factor that brings gradients of this norm to at most `limit`; NaN if the norm is NaN.");
  m.def("power", &power, py::arg("x"), py::arg("exponent"),
        "x to a power: to a whole one by squaring, so that the bits are the same on every system.");
  py::class_<Busy, std::shared_ptr<Busy>>(m, "Busy",
                                          "The lock of an optimizer, which has one user at a time.")
      .def(py::init<>())
      .def_readonly("changes", &Busy::changes,
                    "What the one that has the lock will change; forgotten when it leaves.")
      .def_readonly("state", &Busy::state, "Whether averages are \"swapped\" in; then nobody has the lock.")
      .def(
          "run", &run_alone, py::arg("function"),
          "Call function(*args) with the lock, in the standard floating-point mode; raise RuntimeError while "
          "another has the lock, or averages are swapped in.")
      .def("read", &read_alone, py::arg("function"),
           "Call function(*args), which only reads, with the lock; raise RuntimeError while another has it.");
  py::class_<Changes>(m, "Changes", "Changes of dictionaries and arrays that are written all together.")
      .def(py::init<>())
      .def("update", &Changes::update, py::arg("target").none(false), py::arg("values").none(false),
           "Put the entries of `values` into `target`.")
      .def("copy", &Changes::copy, py::arg("target"), py::arg("source"), py::arg("negated") = false,
           "Copy an array into one of the same shape and width of elements, perhaps with changed signs.")
      .def("put", &Changes::put, py::arg("target"), py::arg("rows"), py::arg("source"),
           "Copy rows into those rows of `target` that `rows` names.")
      .def("restore", &Changes::restore, py::arg("others"),
           "Have all that the others change be again as it is now.")
      .def("extend", &Changes::extend, py::arg("others"), "Add all changes of another object.")
      .def("write", &Changes::write, "Write all changes, in one call that no interrupt divides.");
  py::class_<Layouts, std::shared_ptr<Layouts>>(
      m, "Layouts", "Arrays that must stay where they are, with their types and shapes.")
      .def(py::init<std::vector<py::array>>(), py::arg("arrays"))
      .def("changed", &Layouts::changed, "The position of the first array that has changed, or None.");
  py::class_<NumpyTable, std::shared_ptr<NumpyTable>>(m, "NumpyTable",
                                                      "An array whose rows are stepped, with its state.")
      .def(py::init<const py::array&, const std::vector<py::array>&, const std::optional<py::array>&,
                    const std::vector<py::array>&>(),
           py::arg("p"), py::arg("state"), py::arg("mean"), py::arg("others"))
      .def("take", &NumpyTable::take, py::arg("indices"), py::arg("values"),
           "Take the gradients of rows; return the rows' indices, ascending, each once, or None if not "
           "usable.");
  py::class_<NumpyPlan, std::shared_ptr<NumpyPlan>>(
      m, "NumpyPlan", "The plan of NumPy arrays: parameters and state, the same at each step.")
      .def(py::init<const std::vector<std::vector<std::string>>&, const std::string&,
                    std::vector<NumpyPlan::Entry>>(),
           py::arg("kernels"), py::arg("average"), py::arg("tensors"))
      .def_property_readonly("sweeps", &NumpyPlan::sweeps, "The number of sweeps of a step.")
      .def("pin", &NumpyPlan::pin, py::arg("gradients"), py::arg("zero_gradients"),
           py::arg("tables") = py::tuple(),
           "Take a step's gradients and tables; return the positions of those that are not usable as they "
           "are.")
      .def("norm", &NumpyPlan::norm, "The 2-norm of the gradients.")
      .def("measure", &NumpyPlan::measure, py::arg("sweep"), py::arg("coefficients"),
           "Return the positions of tensors or touched rows, and the sums over each, by group.")
      .def("run", &NumpyPlan::run, py::arg("sweep"), py::arg("coefficients"), py::arg("zero_gradients"),
           py::arg("changes") = py::none(),
           "Run a sweep; the last sweep ends the step, and writes the changes with it.")
      .def("run_and_sum", &NumpyPlan::run_and_sum, py::arg("coefficients"), py::arg("zero_gradients"),
           py::arg("changes"), "Run the last sweep; return the sums of squares over each tensor.")
      .def("release", &NumpyPlan::release, "Forget the gradients of a step.");
  py::class_<Foresight>(m, "Foresight", "What does a step without Python where it can.")
      .def(py::init([](std::shared_ptr<NumpyPlan> plan, std::shared_ptr<Layouts> parameters,
                       std::vector<Structure::Form> forms_of_groups, Structure::Form form,
                       const std::vector<py::dict>& groups, py::function is_fixed, py::function coefficients,
                       py::dict counts, std::shared_ptr<Busy> busy) {
             return Foresight(std::move(plan), std::move(parameters),
                              {std::move(forms_of_groups), std::move(form)}, groups, std::move(is_fixed),
                              std::move(coefficients), std::move(counts), std::move(busy));
           }),
           py::arg("plan").none(false), py::arg("parameters").none(false), py::arg("forms_of_groups"),
           py::arg("form"), py::arg("groups"), py::arg("is_fixed"), py::arg("coefficients"),
           py::arg("counts").none(false), py::arg("busy").none(false))
      .def("step", &Foresight::step, py::arg("gradients"), py::arg("loss"), py::arg("options"),
           "Do the next step, if all that it needs can be known; return the norm of the scaled gradients, if "
           "it was needed, in a tuple, or None if there was no step.");
  add_torch(m);

  // Made now, since a thread that waits for another to make them would not let Python stop all threads.
  fields_of(0);
  fields_of_prologue();

  for (const auto& [name, value] : py::dict(m.attr("__dict__")))
    if (PyType_Check(value.ptr())) reinterpret_cast<PyTypeObject*>(value.ptr())->tp_new = new_object;
}

}  // namespace
}  // namespace fusedstep
