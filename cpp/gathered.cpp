#include "gathered.hpp"

#include <bit>
#include <cstdint>
#include <map>

namespace fusedstep {
namespace {

/// What a dictionary has; nothing if it does not have it.
py::object look_up(py::handle dictionary, py::handle key) {
  PyObject* const found = PyDict_GetItemWithError(dictionary.ptr(), key.ptr());
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return py::reinterpret_borrow<py::object>(found);
}

/// A dictionary's items as a sequence of keys asks for them. Keys that come in the dictionary's own order
/// need no hash, which for a tensor is a call of Python.
class InOrder {
 public:
  InOrder(const py::dict& dictionary, const py::list& keys) : dictionary_(dictionary) {
    if (keys.empty()) return;
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t next = 0; PyDict_Next(dictionary_.ptr(), &next, &key, &value) != 0; position_ = next)
      if (key == PyList_GET_ITEM(keys.ptr(), 0)) return;
  }

  py::object look_up(py::handle key) {
    // The dictionary is asked only now: other threads may have changed it since.
    PyObject *found = nullptr, *value = nullptr;
    Py_ssize_t next = position_;
    if (PyDict_Next(dictionary_.ptr(), &next, &found, &value) == 0 || found != key.ptr())
      return fusedstep::look_up(dictionary_, key);
    position_ = next;
    return py::reinterpret_borrow<py::object>(value);
  }

 private:
  py::handle dictionary_;
  Py_ssize_t position_ = 0;
};

/// Elements that lie as those of p and can be computed with them.
bool suits(const std::optional<View>& view, const View& p) {
  return view && lies_as(*view, p) && mix(view->array.number, p.array.number);
}

}  // namespace

Gathered::Gathered(const Exchange& exchange, const py::list& parameters, const py::dict& states,
                   const std::vector<py::str>& keys, const std::vector<py::str>& number_keys, bool averaged)
    : exchange_(exchange),
      slots_(keys.size()),
      numbers_(number_keys.size()),
      kinds_(2 + slots_ + numbers_),
      averaged_(averaged) {
  objects_.reserve(parameters.size() * kinds_);
  numbers_of_.reserve(parameters.size() * numbers_);
  tensors_.reserve(parameters.size());
  fits_.reserve(parameters.size());
  const py::str grad("grad");
  InOrder in_order(states, parameters);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const py::object p = parameters[i];
    const py::object state = in_order.look_up(p);
    if (state && !py::isinstance<py::dict>(state))
      throw py::type_error("the state of a parameter must be a dict");
    py::object g = p.attr(grad);
    if (g.is_none()) continue;
    objects_.push_back(p);
    objects_.push_back(std::move(g));
    bool complete = true;
    const auto add = [&](const py::str& key) {
      objects_.push_back(state ? look_up(state, key) : py::object());
      complete = complete && objects_.back();
    };
    for (const py::str& key : keys) add(key);
    for (const py::str& key : number_keys) {
      add(key);
      numbers_of_.push_back(look_at(objects_.back()));
    }
    tensors_.emplace_back();
    fits_.push_back(false);
    if (complete)
      look(size() - 1);
    else
      lacking_.push_back(size() - 1);
  }
}

std::optional<View> Gathered::view(const py::object& tensor) const {
  std::optional<View> view = exchange_.view(tensor);
  // What is negated lazily, the imaginary part of a conjugate, has a sign that DLPack does not tell. With
  // more than one element it has gaps too, and is not taken for that.
  if (view && view->size == 1 && tensor.attr("is_neg")().cast<bool>()) view.reset();
  return view;
}

void Gathered::look(std::size_t i) {
  Tensor& tensor = tensors_[i];
  tensor = {};
  const std::optional<View> p = view(object(i, 0));
  fits_[i] = p && is_dense(*p);
  if (!fits_[i]) return;
  tensor.size = p->size;
  tensor.p = p->array;
  fits_[i] = look_at_state(tensor, *p, i);
  const std::optional<View> g = view(object(i, 1));
  tensor.stepped = suits(g, *p);
  if (tensor.stepped) tensor.g = g->array;
}

bool Gathered::look_at_state(Tensor& tensor, const View& p, std::size_t i) const {
  tensor.kept = p.array.number;
  for (std::size_t slot = 0; slot < slots_; ++slot) {
    const std::optional<View> s = view(object(i, 2 + slot));
    if (!suits(s, p) || (slot > 0 && s->array.number != tensor.kept)) return false;
    tensor.kept = s->array.number;
    if (averaged_ && slot == slots_ - 1)
      tensor.average = s->array.data;
    else
      tensor.state.at(slot) = s->array.data;
  }
  return true;
}

void Gathered::complete(std::size_t i, const py::list& state, const py::list& numbers) {
  for (std::size_t k = 0; k < numbers_; ++k) {
    object(i, 2 + slots_ + k) = numbers[k];
    numbers_of_[i * numbers_ + k] = look_at(object(i, 2 + slots_ + k));
  }
  replace(i, object(i, 0), object(i, 1), state);
}

void Gathered::replace(std::size_t i, const py::object& p, const py::object& g, const py::list& state) {
  object(i, 0) = p;
  object(i, 1) = g;
  for (std::size_t slot = 0; slot < slots_; ++slot) object(i, 2 + slot) = state[slot];
  look(i);
}

std::vector<std::pair<std::vector<double>, Gathered::Members>> Gathered::alike(std::size_t count) const {
  // By their bits, which have an order where numbers, NaN among them, have none.
  std::map<std::vector<std::uint64_t>, std::vector<std::size_t>> members;
  std::vector<std::uint64_t> last, bits(count);
  std::vector<std::size_t>* same = nullptr;
  for (std::size_t i = 0; i < size(); ++i) {
    for (std::size_t k = 0; k < count; ++k) bits[k] = std::bit_cast<std::uint64_t>(number(i, k).value);
    if (same == nullptr || bits != last) same = &members[last = bits];
    same->push_back(i);
  }
  std::vector<std::pair<std::vector<double>, Members>> groups;
  for (auto& [key, indices] : members) {
    std::vector<double> values;
    for (const std::uint64_t word : key) values.push_back(std::bit_cast<double>(word));
    groups.emplace_back(std::move(values), members.size() == 1 ? Members() : std::move(indices));
  }
  return groups;
}

Gathered::Number Gathered::look_at(const py::object& object) const {
  if (!object) return {};
  const std::optional<View> view = exchange_.view(object);
  if (!view || view->size != 1) throw py::type_error("the numbers of a state must be tensors of one element");
  switch (view->array.number) {
    case number_f32:
      return {view->array, static_cast<double>(*static_cast<const float*>(view->array.data))};
    case number_f64:
      return {view->array, *static_cast<const double*>(view->array.data)};
    default:
      throw py::type_error("the numbers of a state must be float32 or float64");
  }
}

void Gathered::set(std::size_t i, std::size_t k, double value) const {
  const Array& array = number(i, k).array;
  if (array.number == number_f32)
    *static_cast<float*>(array.data) = static_cast<float>(value);
  else
    *static_cast<double*>(array.data) = value;
}

std::vector<double> Gathered::values(std::size_t k, const Members& members) const {
  std::vector<double> values;
  for_each(members, [&](std::size_t i) { values.push_back(number(i, k).value); });
  return values;
}

void Gathered::fill(std::size_t k, const Members& members, double value) const {
  for_each(members, [&](std::size_t i) { set(i, k, value); });
}

void Gathered::assign(std::size_t k, const Members& members, const std::vector<double>& values) const {
  auto next = values.begin();
  for_each(members, [&](std::size_t i) { set(i, k, *next++); });
}

std::vector<std::size_t> Gathered::sizes(const Members& members) const {
  std::vector<std::size_t> sizes;
  for_each(members, [&](std::size_t i) { sizes.push_back(tensors_[i].size); });
  return sizes;
}

py::list Gathered::column(std::size_t kind, const Members& members) const {
  py::list list;
  for_each(members, [&](std::size_t i) { list.append(object(i, kind)); });
  return list;
}

}  // namespace fusedstep
