#include "python/busy.hpp"

#include <stdexcept>

#include "python/gil.hpp"
#include "python/look_up.hpp"
#include "step/floating_point.hpp"

namespace fusedstep {
namespace {

/// Holds a lock while it exists.
class Hold {
 public:
  explicit Hold(std::shared_ptr<Busy> busy) : busy_(std::move(busy)) { busy_->take(); }
  ~Hold() { busy_->leave(); }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;

 private:
  std::shared_ptr<Busy> busy_;
};

py::object call(const py::object& function, const py::args& args) {
  PyObject* const result = or_sleep([&] { return PyObject_CallObject(function.ptr(), args.ptr()); });
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

}  // namespace

void Busy::take() {
  if (!turn_.take())
    throw std::runtime_error(
        "this optimizer is in use: a step, a load or a save of it is running, perhaps in another thread");
  changes.forget();  // those of a holder that a fork has left behind
}

void Busy::leave() {
  changes.forget();
  turn_.leave();
}

bool Busy::swapped() const { return look_up(state, swapped_).is(py::handle(Py_True)); }

py::object run_alone(const std::shared_ptr<Busy>& busy, const py::object& function, const py::args& args) {
  const Hold hold(busy);
  if (busy->swapped())
    throw std::runtime_error("the averages of this optimizer's weights are swapped in: swap them back first");
  const StandardMode mode;
  return call(function, args);
}

py::object read_alone(const std::shared_ptr<Busy>& busy, const py::object& function, const py::args& args) {
  const Hold hold(busy);
  return call(function, args);
}

}  // namespace fusedstep
