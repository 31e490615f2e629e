#include "tensor_plan.hpp"

#include <stdexcept>

#include "reduce.hpp"

namespace fusedstep {
namespace {

std::logic_error not_taken() {
  return std::logic_error("no tensors, or some that cannot be used as they are");
}

py::handle item(const py::list& list, std::size_t i) {
  return PyList_GET_ITEM(list.ptr(), static_cast<py::ssize_t>(i));
}

/// What a dictionary has, borrowed; a null handle if it has nothing.
py::handle look_up(py::handle dictionary, py::handle key) {
  PyObject* const found = PyDict_GetItemWithError(dictionary.ptr(), key.ptr());
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return found;
}

/// Whether two plans' tensors are written to the same memory by the same kernels.
bool same_memory(const Tensor& a, const Tensor& b) {
  return a.group == b.group && a.size == b.size && a.p.data == b.p.data && a.p.number == b.p.number &&
         a.kept == b.kept && a.state == b.state && a.average == b.average;
}

bool same_memory(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same_memory(a[i], b[i])) return false;
  return true;
}

}  // namespace

TensorPlan::TensorPlan(py::type type, const std::string& average)
    : exchange_(std::move(type)), average_(kernel_index(average)) {}

bool TensorPlan::take_parameter(Tensor& tensor, const View& p, const Batch& batch, std::size_t i) const {
  const auto& [name, parameters, gradients, slots, averages] = batch;
  if (!is_dense(p)) return false;
  tensor.size = p.size;
  tensor.p = p.array;
  tensor.kept = p.array.number;
  bool first = true;
  const auto take_state = [&](py::handle state) -> void* {
    const std::optional<View> s = exchange_.view(state);
    if (!s || !lies_as(*s, p) || !mix(s->array.number, p.array.number)) return nullptr;
    if (!first && s->array.number != tensor.kept) return nullptr;
    first = false;
    tensor.kept = s->array.number;
    return s->array.data;
  };
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    tensor.state.at(slot) = take_state(item(slots[slot], i));
    if (tensor.state.at(slot) == nullptr && p.size != 0) return false;
  }
  if (averages) tensor.average = take_state(item(*averages, i));
  return !averages || tensor.average != nullptr || p.size == 0;
}

std::pair<std::vector<TensorPlan::Position>, std::vector<TensorPlan::Position>> TensorPlan::take(
    const std::vector<Batch>& batches) {
  taken_ = false;
  std::vector<std::size_t> kernels;
  std::vector<Tensor> tensors;
  std::vector<Position> odd, odd_gradients;
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const auto& [name, parameters, gradients, slots, averages] = batches[b];
    kernels.push_back(kernel_index(name));
    if (slots.size() != active().kernels[kernels.back()].slots)
      throw std::invalid_argument("wrong number of state slots for " + name);
    const auto as_long = [n = parameters.size()](const py::list& list) { return list.size() == n; };
    bool fits = as_long(gradients) && (!averages || as_long(*averages));
    for (const py::list& slot : slots) fits = fits && as_long(slot);
    if (!fits) throw std::invalid_argument("one tensor of each kind for each parameter");
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      Tensor tensor{b, 0, {}, {}, {}, {}, nullptr};
      const std::optional<View> p = exchange_.view(item(parameters, i));
      if (!p || !take_parameter(tensor, *p, batches[b], i)) {
        odd.emplace_back(b, i);
        continue;
      }
      const std::optional<View> g = exchange_.view(item(gradients, i));
      if (g && lies_as(*g, *p) && mix(g->array.number, p->array.number))
        tensor.g = g->array;
      else
        odd_gradients.emplace_back(b, i);
      tensors.push_back(tensor);
    }
  }
  if (!odd.empty() || !odd_gradients.empty()) return {odd, odd_gradients};

  const bool known = plan_ && plan_->kernels() == kernels && same_memory(plan_->tensors(), tensors);
  if (!known) plan_.emplace(std::move(kernels), average_, tensors);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const Array &now = tensors[i].g, &before = plan_->tensors()[i].g;
    const bool checked = known && now.data == before.data && now.number == before.number;
    if (!checked && plan_->touches(now.data, tensors[i].size * width(now.number)))
      odd_gradients.push_back(position(i));
    else
      plan_->tensors()[i].g = now;
  }
  taken_ = odd_gradients.empty();
  if (!taken_) plan_.reset();
  return {odd, odd_gradients};
}

TensorPlan::Position TensorPlan::position(std::size_t tensor) const {
  const std::size_t batch = plan_->tensors()[tensor].group;
  std::size_t first = tensor;
  while (first > 0 && plan_->tensors()[first - 1].group == batch) --first;
  return {batch, tensor - first};
}

std::optional<std::pair<TensorPlan::Position, TensorPlan::Position>> TensorPlan::overlap() const {
  if (!taken_) throw not_taken();
  const auto found = plan_->overlap();
  if (!found) return {};
  return {{position(found->first), position(found->second)}};
}

std::pair<double, bool> TensorPlan::norm() const {
  if (!taken_) throw not_taken();
  return norm_of(plan_->gradients());
}

void TensorPlan::run(const std::vector<Coefficients>& groups) {
  if (!taken_) throw not_taken();
  const std::vector<Row> rows = rows_for(*plan_, groups);
  taken_ = false;
  const py::gil_scoped_release release;
  plan_->run(rows, false);
}

double TensorPlan::value(py::handle scalar) const {
  const std::optional<View> view = exchange_.view(scalar);
  if (view && view->size == 1 && view->array.number == number_f32)
    return static_cast<double>(*static_cast<const float*>(view->array.data));
  return py::float_(py::reinterpret_borrow<py::object>(scalar));
}

TensorPlan::Gathered TensorPlan::gather(const py::list& parameters, const py::dict& states,
                                        const std::vector<py::str>& keys,
                                        const std::vector<py::str>& number_keys) const {
  Gathered found;
  found.state.resize(keys.size());
  found.numbers.resize(number_keys.size());
  found.values.resize(number_keys.size());
  const py::str grad("grad");
  for (const py::handle p : parameters) {
    py::object g = p.attr(grad);
    if (g.is_none()) continue;
    found.parameters.append(p);
    found.gradients.append(std::move(g));
    const py::handle state = look_up(states, p);
    bool complete = true;
    const auto entry = [&](const py::str& key) -> py::handle {
      const py::handle value = state ? look_up(state, key) : py::handle();
      complete = complete && value;
      return value ? value : py::handle(Py_None);
    };
    for (std::size_t k = 0; k < keys.size(); ++k) found.state[k].append(entry(keys[k]));
    for (std::size_t k = 0; k < number_keys.size(); ++k) {
      const py::handle number = entry(number_keys[k]);
      found.numbers[k].append(number);
      found.values[k].append(number.is_none() ? 0.0 : value(number));
    }
    if (!complete) found.lacking.push_back(found.parameters.size() - 1);
  }
  return found;
}

void TensorPlan::fill(const py::list& scalars, double value) const {
  for (const py::handle scalar : scalars) {
    const std::optional<View> view = exchange_.view(scalar);
    if (view && view->size == 1 && view->array.number == number_f32)
      *static_cast<float*>(view->array.data) = static_cast<float>(value);
    else
      scalar.attr("fill_")(value);
  }
}

}  // namespace fusedstep
