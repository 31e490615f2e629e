#include "python/torch_parameters.hpp"

#include <pybind11/critical_section.h>

#include <atomic>
#include <bit>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <utility>

#include "python/coefficients.hpp"
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

std::uint64_t next_version() {
  static std::atomic<std::uint64_t> versions = 0;
  return ++versions;
}

}  // namespace

TorchParameters::TorchParameters(const Exchange& exchange, const std::vector<std::string>& kernel,
                                 std::vector<py::str> keys, std::vector<py::str> scalar_keys, bool averaged)
    : exchange_(exchange),
      kernel_(sweeps_of(kernel)),
      keys_(std::move(keys)),
      scalar_keys_(std::move(scalar_keys)),
      slots_(keys_.size()),
      scalars_(scalar_keys_.size()),
      kinds_(2 + slots_ + scalars_),
      averaged_(averaged),
      version_(next_version()),
      ahead_(2 * kinds_ + 1 + scalars_) {}

bool TorchParameters::look(const py::list& parameters, const py::dict& states) {
  static const py::handle grad = interned("grad");
  lacking_.clear();
  rows_.clear();
  std::size_t found = 0;
  InOrder in_order(states, parameters);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    ahead_.ask(found);
    py::object p = parameters[i];
    const py::object state = in_order.look_up(p);
    if (state && !py::isinstance<py::dict>(state))
      throw py::type_error("the state of a parameter must be a dict");
    py::object g = p.attr(grad);
    if (g.is_none()) continue;
    if (found == size()) resize(found + 1);
    take(found++, std::move(p), std::move(g), state);
  }
  if (found != size()) resize(found);
  return lacking_.empty();
}

void TorchParameters::resize(std::size_t size) {
  objects_.resize(size * kinds_);
  found_scalars_.resize(size * scalars_);
  tensors_.resize(size);
  fits_.resize(size);
  ahead_.resize(size);
  version_ = next_version();
}

void TorchParameters::release() {
  for (py::object& object : objects_) object = {};
  rows_.clear();
}

void TorchParameters::take(std::size_t i, py::object p, py::object g, const py::object& state) {
  object(i, 0) = std::move(p);
  object(i, 1) = std::move(g);
  bool complete = true;
  if (state) ahead_.note(i, 2 * kinds_, state.ptr(), sizeof(PyDictObject));
  const auto take = [&](std::size_t kind, const py::str& key) {
    object(i, kind) = state ? look_up(state, key) : py::object();
    complete = complete && object(i, kind);
  };
  for (std::size_t slot = 0; slot < slots_; ++slot) take(2 + slot, keys_[slot]);
  for (std::size_t k = 0; k < scalars_; ++k) {
    take(2 + slots_ + k, scalar_keys_[k]);
    take_scalar(i, k);
  }
  if (complete) {
    find_memory(i);
  } else {
    tensors_[i] = {};
    fits_[i] = false;
    lacking_.push_back(i);
  }
}

void TorchParameters::take_scalar(std::size_t i, std::size_t k) {
  TorchScalar& scalar = found_scalars_[i * scalars_ + k];
  const Array before = scalar.array;
  const std::size_t kind = 2 + slots_ + k;
  if (!object(i, kind)) {
    scalar = {};
  } else {
    const std::optional<View> view = exchange_.view(object(i, kind));
    scalar = scalar_of(view);
    note(i, kind, *view);
    ahead_.note(i, 2 * kinds_ + 1 + k, scalar.array.data, width(scalar.array.format));
  }
  if (scalar.array != before) version_ = next_version();
}

std::optional<View> TorchParameters::view(const py::object& tensor) const {
  std::optional<View> view = exchange_.view(tensor);
  // A lazily negated tensor, such as the imaginary part of a conjugate, has a sign that DLPack does not tell.
  // With more than one element it also has gaps, and is refused for them.
  if (view && view->size == 1 && tensor.attr("is_neg")().cast<bool>()) view.reset();
  return view;
}

std::optional<View> TorchParameters::view(std::size_t i, std::size_t kind) {
  std::optional<View> view = this->view(object(i, kind));
  if (view) note(i, kind, *view);
  return view;
}

void TorchParameters::note(std::size_t i, std::size_t kind, const View& view) {
  // The lengths of the axes are in the middle of torch's own object.
  constexpr std::size_t before = 64, around = 192;
  ahead_.note(i, 2 * kind, object(i, kind).ptr(), sizeof(PyObject));
  ahead_.note(i, 2 * kind + 1, reinterpret_cast<const char*>(view.shape) - before, around);
}

void TorchParameters::find_memory(std::size_t i) {
  Tensor found;
  const std::optional<View> p = view(i, 0);
  fits_[i] = p && is_dense(*p);
  if (fits_[i]) {
    found.size = p->size;
    found.p = p->array;
    fits_[i] = find_state(found, *p, i);
    const std::optional<View> g = view(i, 1);
    found.stepped = suits(g, *p);
    if (found.stepped) found.g = g->array;
  }
  if (!same_memory(found, tensors_[i])) version_ = next_version();
  tensors_[i] = found;
}

bool TorchParameters::find_state(Tensor& tensor, const View& p, std::size_t i) {
  for (std::size_t slot = 0; slot < slots_; ++slot) {
    const std::optional<View> s = view(i, 2 + slot);
    if (!suits(s, p)) return false;
    (slot < slots() ? tensor.state.at(slot) : tensor.average) = s->array;
  }
  return true;
}

void TorchParameters::complete(std::size_t i, const py::list& state, const py::list& scalars) {
  for (std::size_t k = 0; k < scalars_; ++k) {
    object(i, 2 + slots_ + k) = scalars[k];
    take_scalar(i, k);
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
  const std::optional<View> p = view(i, 0), given = view(values);
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

bool TorchParameters::are_alike(std::size_t count) const {
  for (std::size_t i = 0; i < size(); ++i)
    for (std::size_t k = 0; k < count; ++k)
      if (std::bit_cast<std::uint64_t>(scalar(i, k).value) != std::bit_cast<std::uint64_t>(first(k)))
        return false;
  return size() > 0;
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
