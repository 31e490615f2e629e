#include "python/torch_module.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "python/torch_parameters.hpp"
#include "python/torch_plan.hpp"
#include "python/torch_records.hpp"

namespace fusedstep {
namespace {

PyObject* torch_records_now(PyObject* /*module*/, PyObject* /*none*/) {
  return PyBool_FromLong(torch_records() ? 1 : 0);
}

/// Functions that cost less than pybind11 takes to call one.
PyMethodDef direct[] = {{"torch_records", &torch_records_now, METH_NOARGS,
                         "torch_records()\n--\n\nWhether torch may be recording what its operators do."},
                        {}};

}  // namespace

void add_torch(py::module_& m) {
  if (PyModule_AddFunctions(m.ptr(), direct) != 0) throw py::error_already_set();
  py::class_<TorchParameters, std::shared_ptr<TorchParameters>>(
      m, "TorchParameters", "Parameters that have a gradient, with their state.")
      .def(py::init([](const TorchPlan& plan, const std::vector<std::string>& kernel,
                       std::vector<py::str> keys, std::vector<py::str> scalar_keys, bool averaged) {
             return std::make_shared<TorchParameters>(plan.exchange(), kernel, std::move(keys),
                                                      std::move(scalar_keys), averaged);
           }),
           py::arg("plan"), py::arg("kernel"), py::arg("keys"), py::arg("scalar_keys"), py::arg("averaged"),
           py::keep_alive<1, 2>())
      .def("__len__", [](const TorchParameters& found) { return found.size(); })
      .def(
          "look",
          [](TorchParameters& found, const py::list& parameters, const py::dict& states, std::size_t count) {
            return found.look(parameters, states) ? std::optional(found.alike(count)) : std::nullopt;
          },
          py::arg("parameters"), py::arg("states"), py::arg("count"),
          "Look up the parameters that have a gradient; return what `alike` does, or None if some state is "
          "incomplete.")
      .def("lacking", &TorchParameters::lacking, "The positions of the parameters whose state is incomplete.")
      .def("release", &TorchParameters::release, "Let the tensors go.")
      .def("complete", &TorchParameters::complete, py::arg("i"), py::arg("state"), py::arg("scalars"),
           "Give a parameter all of its state.")
      .def("replace", &TorchParameters::replace, py::arg("i"), py::arg("p"), py::arg("g"), py::arg("state"),
           "Replace a parameter, its gradient and its state by other tensors.")
      .def("take_rows", &TorchParameters::take_rows, py::arg("i"), py::arg("indices"), py::arg("values"),
           "Make rows the gradient of a parameter; return False if something is not usable as it is.")
      .def("alike", &TorchParameters::alike, py::arg("count"), "Group the parameters by equal scalars.")
      .def("values", &TorchParameters::values, py::arg("k"), py::arg("members"),
           "The values of a scalar, one for each member.")
      .def("assign", &TorchParameters::assign, py::arg("changes"), py::arg("k"), py::arg("members"),
           py::arg("values"), "Have a scalar of each member set to its own value.")
      .def("sizes", &TorchParameters::sizes, py::arg("members"), "The number of elements of each member.")
      .def("fill", &TorchParameters::fill, py::arg("changes"), py::arg("k"), py::arg("members"),
           py::arg("value"), "Have a scalar of all members set to one value.")
      .def("parameters", &TorchParameters::parameters, py::arg("members") = py::none(), "The parameters.")
      .def("gradients", &TorchParameters::gradients, py::arg("members") = py::none(),
           "The gradients of the parameters.")
      .def("state", &TorchParameters::state, py::arg("slot"), py::arg("members") = py::none(),
           "The tensors of a state slot.");
  py::class_<TorchPlan>(m, "TorchPlan", "The plan of another library's tensors.")
      .def(py::init<py::type, const std::string&, py::function>(), py::arg("kind"), py::arg("average"),
           py::arg("increment"))
      .def_property_readonly("sweeps", &TorchPlan::sweeps,
                             "The number of sweeps of the step that was taken last.")
      .def(
          "take",
          [](TorchPlan& plan, const std::vector<TorchPlan::Batch>& batches) {
            const TorchPlan::Odd odd = plan.take(batches);
            return odd.empty() ? py::object(py::none())
                               : py::make_tuple(odd.parameters, odd.gradients, odd.in_small_state);
          },
          py::arg("batches"),
          "Take a step's tensors; return None, or the positions of the parameters and of the gradients that "
          "are not usable as they are, and of the gradients that lie in small state.")
      .def("remember", &TorchPlan::remember, py::arg("groups"), py::arg("counted"), py::arg("shared"),
           "Say that the step which was taken last had one batch of each of these groups.")
      .def("remember_entries", &TorchPlan::remember_entries, py::arg("k"), py::arg("group"),
           "Remember the entries of a group; return whether none can change itself.")
      .def("again", &TorchPlan::again, py::arg("groups"), py::arg("states"),
           "Look up and take the groups that are remembered; return whether they are as they were.")
      .def(
          "step_again",
          [](TorchPlan& plan, double scale, std::optional<double> clip_norm, const py::dict& attributes,
             Changes& changes) { return plan.step_again({scale, clip_norm, HUGE_VAL}, attributes, changes); },
          py::arg("scale"), py::arg("clip_norm"), py::arg("attributes"), py::arg("changes"),
          "Step what was taken again, if the coefficients of all groups were forecast; return whether it "
          "did.")
      .def("found_again", &TorchPlan::found_again,
           "The shared scalars of each group that was taken again, and the positions of those with other "
           "entries.")
      .def("forecast", &TorchPlan::forecast, py::arg("k"), py::arg("first"), py::arg("steps"),
           "Say which coefficients a remembered group will have at step `first` and after it.")
      .def("parameters", &TorchPlan::parameters, "The parameters of the step, in the order of its batches.")
      .def("overlap", &TorchPlan::overlap, "Two positions whose parameters or state share memory, or None.")
      .def("norm", &TorchPlan::norm, "The 2-norm of the gradients.")
      .def("measure", &TorchPlan::measure, py::arg("sweep"), py::arg("coefficients"),
           "Return the positions of tensors or touched rows, and the sums over each, by batch.")
      .def("run", &TorchPlan::run, py::arg("sweep"), py::arg("coefficients"), py::arg("zero_gradients"),
           py::arg("changes") = py::none(),
           "Run a sweep; the last sweep ends the step, and writes the changes with it.")
      .def("release", &TorchPlan::release, "Let go of the tensors of a step.");
}

}  // namespace fusedstep
