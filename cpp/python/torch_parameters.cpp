#include "python/torch_parameters.hpp"

#include <pybind11/critical_section.h>

#include <bit>
#include <cstdint>
#include <map>
#include <stdexcept>

#include "python/look_up.hpp"

namespace fusedstep {
namespace {

/// Looks up a sequence of keys in a dictionary. Keys that come in the dictionary's own order need no hash,
/// which for a tensor is a call of Python.
class InOrder {
 public:
  InOrder(const py::dict& dictionary, const py::list& keys) : dictionary_(dictionary) {
    if (keys.empty()) return;
    const py::scoped_critical_section alone(dictionary_);
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t next = 0; PyDict_Next(dictionary_.ptr(), &next, &key, &value) != 0; position_ = next)
      if (key == PyList_GET_ITEM(keys.ptr(), 0)) return;
  }

  py::object look_up(py::handle key) {
    // Read the dictionary only now, not in advance: other threads may change it between two calls.
    const py::object found = next(key);
    return found ? found : fusedstep::look_up(dictionary_, key);
  }

 private:
  /// The value after the one that was found last, if it belongs to this key.
  py::object next(py::handle key) {
    const py::scoped_critical_section alone(dictionary_);
    PyObject *found = nullptr, *value = nullptr;
    Py_ssize_t after = position_;
    if (PyDict_Next(dictionary_.ptr(), &after, &found, &value) == 0 || found != key.ptr()) return {};
    position_ = after;
    return py::reinterpret_borrow<py::object>(value);
  }

  py::handle dictionary_;
  Py_ssize_t position_ = 0;
};

/// Whether the elements lie as those of p and have a format that mixes with p's.
bool suits(const std::optional<View>& view, const View& p) {
  return view && lies_as(*view, p) && mix(view->array.format, p.array.format);
}

}  // namespace

TorchParameters::TorchParameters(const Exchange& exchange, const py::list& parameters, const py::dict& states,
                                 const std::vector<py::str>& keys, const std::vector<py::str>& scalar_keys,
                                 bool averaged)
    : exchange_(exchange),
      slots_(keys.size()),
      scalars_(scalar_keys.size()),
      kinds_(2 + slots_ + scalars_),
      averaged_(averaged) {
  objects_.reserve(parameters.size() * kinds_);
  found_scalars_.reserve(parameters.size() * scalars_);
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
    for (const py::str& key : scalar_keys) {
      add(key);
      found_scalars_.push_back(scalar_of(exchange_, objects_.back()));
    }
    tensors_.emplace_back();
    fits_.push_back(false);
    if (complete)
      find_memory(size() - 1);
    else
      lacking_.push_back(size() - 1);
  }
}

std::optional<View> TorchParameters::view(const py::object& tensor) const {
  std::optional<View> view = exchange_.view(tensor);
  // A lazily negated tensor, such as the imaginary part of a conjugate, has a sign that DLPack does not tell.
  // With more than one element it also has gaps, and is refused for them.
  if (view && view->size == 1 && tensor.attr("is_neg")().cast<bool>()) view.reset();
  return view;
}

void TorchParameters::find_memory(std::size_t i) {
  Tensor& tensor = tensors_[i];
  tensor = {};
  const std::optional<View> p = view(object(i, 0));
  fits_[i] = p && is_dense(*p);
  if (!fits_[i]) return;
  tensor.size = p->size;
  tensor.p = p->array;
  fits_[i] = find_state(tensor, *p, i);
  const std::optional<View> g = view(object(i, 1));
  tensor.stepped = suits(g, *p);
  if (tensor.stepped) tensor.g = g->array;
}

bool TorchParameters::find_state(Tensor& tensor, const View& p, std::size_t i) const {
  for (std::size_t slot = 0; slot < slots_; ++slot) {
    const std::optional<View> s = view(object(i, 2 + slot));
    if (!suits(s, p)) return false;
    (slot < slots() ? tensor.state.at(slot) : tensor.average) = s->array;
  }
  return true;
}

void TorchParameters::complete(std::size_t i, const py::list& state, const py::list& scalars) {
  for (std::size_t k = 0; k < scalars_; ++k) {
    object(i, 2 + slots_ + k) = scalars[k];
    found_scalars_[i * scalars_ + k] = scalar_of(exchange_, object(i, 2 + slots_ + k));
  }
  replace(i, object(i, 0), object(i, 1), state);
}

void TorchParameters::replace(std::size_t i, const py::object& p, const py::object& g,
                              const py::list& state) {
  object(i, 0) = p;
  object(i, 1) = g;
  for (std::size_t slot = 0; slot < slots_; ++slot) object(i, 2 + slot) = state[slot];
  rows_.erase(i);
  find_memory(i);
}

bool TorchParameters::take_rows(std::size_t i, py::handle indices, const py::object& values) {
  rows_.erase(i);
  if (!fits_.at(i)) return false;
  const std::optional<View> p = view(object(i, 0)), given = view(values);
  const auto named = exchange_.indices(indices);
  if (!p || !given || !named) return false;
  std::shared_ptr<TorchRows> taken = take_torch_rows(*p, tensors_[i], slots(), *named, *given, values);
  if (taken) rows_[i] = std::move(taken);
  return rows_.contains(i);
}

std::vector<std::pair<std::vector<double>, TorchParameters::Members>> TorchParameters::alike(
    std::size_t count) const {
  // The keys are the scalars' bits, which have an order even where the scalars have none, as with NaN.
  std::map<std::vector<std::uint64_t>, std::vector<std::size_t>> members;
  std::vector<std::uint64_t> last, bits(count);
  std::vector<std::size_t>* same = nullptr;
  for (std::size_t i = 0; i < size(); ++i) {
    for (std::size_t k = 0; k < count; ++k) bits[k] = std::bit_cast<std::uint64_t>(scalar(i, k).value);
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

std::vector<double> TorchParameters::values(std::size_t k, const Members& members) const {
  std::vector<double> values;
  for_each(members, [&](std::size_t i) { values.push_back(scalar(i, k).value); });
  return values;
}

void TorchParameters::fill(Changes& changes, std::size_t k, const Members& members, double value) const {
  for_each(members, [&](std::size_t i) { changes.set(scalar(i, k), value); });
}

void TorchParameters::assign(Changes& changes, std::size_t k, const Members& members,
                             const std::vector<double>& values) const {
  if (values.size() != size(members)) throw std::invalid_argument("a value for each member");
  auto next = values.begin();
  for_each(members, [&](std::size_t i) { changes.set(scalar(i, k), *next++); });
}

void TorchParameters::add_scalars(std::size_t i, std::vector<Run>& runs) const {
  for (std::size_t k = 0; k < scalars_; ++k) runs.push_back({scalar(i, k).array, 1});
}

std::vector<std::size_t> TorchParameters::sizes(const Members& members) const {
  std::vector<std::size_t> sizes;
  for_each(members, [&](std::size_t i) { sizes.push_back(tensors_[i].size); });
  return sizes;
}

py::list TorchParameters::column(std::size_t kind, const Members& members) const {
  py::list list;
  for_each(members, [&](std::size_t i) { list.append(object(i, kind)); });
  return list;
}

}  // namespace fusedstep
