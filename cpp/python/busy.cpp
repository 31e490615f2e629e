#include "python/busy.hpp"

#include <stdexcept>

#ifdef _WIN32
#include <process.h>
#else
#include <unistd.h>
#endif

#include "python/gil.hpp"
#include "step/floating_point.hpp"

namespace fusedstep {
namespace {

int process() {
#ifdef _WIN32
  return _getpid();
#else
  return getpid();
#endif
}

}  // namespace

void Busy::take(const void* holder) {
  if ((holder_ != nullptr && !abandoned()) || PyDict_GetItem(state.ptr(), swapped_.ptr()) == Py_True)
    throw std::runtime_error(
        "a step of this optimizer is running already, or the averages of its weights are swapped in");
  changes.forget();  // those of a holder that a fork has left behind
  holder_ = holder;
  process_ = process();
  thread_ = std::this_thread::get_id();
}

void Busy::leave(const void* holder) {
  if (holder_ != holder) return;
  changes.forget();
  holder_ = nullptr;
}

bool Busy::abandoned() const { return process_ != process() && thread_ != std::this_thread::get_id(); }

py::object run_alone(const std::shared_ptr<Busy>& busy, const py::object& function, const py::args& args) {
  const Hold hold(busy);
  const StandardMode mode;
  PyObject* const result = or_sleep([&] { return PyObject_CallObject(function.ptr(), args.ptr()); });
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

}  // namespace fusedstep
