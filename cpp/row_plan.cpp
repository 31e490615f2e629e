#include "row_plan.hpp"

#include <algorithm>
#include <stdexcept>

#include "mixed.hpp"
#include "parallel.hpp"
#include "tiles.hpp"

namespace fusedstep {
namespace {

/// The memory of rows is asked for while others before them are stepped; within a long one the processor sees
/// itself what comes next. Inlined, since GCC leaves out calls of functions that do nothing else.
constexpr std::size_t ahead = 4, line = 64, most_lines = 16;

[[gnu::always_inline]] inline void prefetch(const Array& array, std::size_t size) {
  const auto begin = reinterpret_cast<std::uintptr_t>(array.data);
  const std::size_t bytes = std::min(size * width(array.number), most_lines * line);
  for (std::uintptr_t at = begin / line * line; at < begin + bytes; at += line)
    __builtin_prefetch(reinterpret_cast<const void*>(at));
}

}  // namespace

Rows::Rows(py::array array)
    : array_(std::move(array)),
      number_(checked_number(array_.dtype())),
      width_(1),
      data_(static_cast<char*>(array_.mutable_data())),
      stride_(array_.strides(0)) {
  for (py::ssize_t axis = array_.ndim() - 1; axis > 0; --axis) {
    const bool run = array_.size() == 0 || array_.shape(axis) == 1 ||
                     array_.strides(axis) == static_cast<py::ssize_t>(width_) * array_.itemsize();
    if (!run) throw std::invalid_argument("rows that are no runs of memory");
    width_ *= static_cast<std::size_t>(array_.shape(axis));
  }
}

bool Rows::fits(const py::array& rows, py::ssize_t count) const {
  const auto is = [&](int flag) { return (rows.flags() & flag) != 0; };
  if (!is(py::array::c_style) || !is(py::detail::npy_api::NPY_ARRAY_ALIGNED_)) return false;
  if (rows.ndim() != array_.ndim() || rows.shape(0) != count) return false;
  return std::equal(rows.shape() + 1, rows.shape() + rows.ndim(), array_.shape() + 1);
}

bool Rows::may_touch(const py::array& run) const {
  if (array_.size() == 0 || run.size() == 0) return false;
  const auto* const begin = static_cast<const char*>(run.data());
  const auto* const last = static_cast<const char*>((*this)[count() - 1].data);
  const std::size_t row = width_ * fusedstep::width(number_);
  return begin < std::max<const char*>(data_, last) + row &&
         std::min<const char*>(data_, last) < begin + run.nbytes();
}

RowPlan::RowPlan(const std::string& kernel, const std::string& average, const py::array& p,
                 const std::vector<py::array>& state, const std::optional<py::array>& mean,
                 const std::vector<py::array>& others)
    : ndarray_(py::module_::import("numpy").attr("ndarray")),
      kernel_(kernel_index(kernel)),
      average_(kernel_index(average)),
      p_(p),
      state_(state.begin(), state.end()),
      others_(others.begin(), others.end()) {
  if (mean) mean_.emplace(*mean);
  check(state_.size() == this->kernel().slots, "state slots", this->kernel());
}

std::optional<RowPlan::Indices> RowPlan::take(py::handle rows, py::handle gradients) {
  gradients_.reset();
  if (!py::type::handle_of(rows).is(ndarray_) || !py::isinstance<Indices>(rows)) return {};
  const auto named = py::reinterpret_borrow<Indices>(rows);
  if (named.ndim() != 1 || !fits(gradients, named.size())) return {};
  // Copied before they are looked at: another thread may write to the array.
  if (!touched_.name(named.data(), static_cast<std::size_t>(named.size()), p_.count())) return {};
  gradients_ = py::reinterpret_borrow<py::array>(gradients);
  const Array given = {number(gradients_->dtype()), const_cast<void*>(gradients_->data())};
  {
    const py::gil_scoped_release release;
    touched_.take(given, p_.width());
  }
  return Indices(static_cast<py::ssize_t>(touched_.size()), touched_.rows());
}

bool RowPlan::fits(py::handle gradients, py::ssize_t count) const {
  if (!py::type::handle_of(gradients).is(ndarray_)) return false;
  const auto given = py::reinterpret_borrow<py::array>(gradients);
  const Number found = number(given.dtype());
  if (found == numbers || !mix(found, p_.number()) || !p_.fits(given, count)) return false;
  const auto touches = [&](const Rows& written) { return written.may_touch(given); };
  return !touches(p_) && !(mean_ && touches(*mean_)) && std::none_of(state_.begin(), state_.end(), touches) &&
         std::none_of(others_.begin(), others_.end(), touches);
}

void RowPlan::check_taken() const {
  if (!gradients_) throw std::logic_error("no gradients");
}

std::pair<double, bool> RowPlan::norm() const {
  check_taken();
  std::vector<Run> runs;
  runs.reserve(touched_.size());
  for (std::size_t k = 0; k < touched_.size(); ++k) runs.push_back({touched_.gradient(k), p_.width()});
  return norm_of(runs);
}

py::array_t<double> RowPlan::measure(const Coefficients& coefficients) const {
  check_taken();
  const Row row = row_for(kernel(), of_average(), touched_.size(), coefficients);
  py::array_t<double> sums({touched_.size(), kernel().sums});
  double* const to = sums.mutable_data();
  std::fill_n(to, sums.size(), 0.0);
  const py::gil_scoped_release release;
  for_each_row([&](std::size_t k, const Operands& of) {
    for (std::size_t begin = 0; begin < p_.width(); begin += Tiles::size)
      add_sums(kernel(), row.rule.data(), begin, std::min(begin + Tiles::size, p_.width()), of,
               to + k * kernel().sums);
  });
  return sums;
}

void RowPlan::run(const Coefficients& coefficients) {
  check_taken();
  const Row row = row_for(kernel(), of_average(), touched_.size(), coefficients);
  const Table& table = active();
  const Kernel &rule = kernel(), &average = of_average();
  {
    const py::gil_scoped_release release;
    for_each_row([&](std::size_t k, const Operands& of) {
      const double* const own = row.rule.data() + k * row.stride;
      if (mean_ && !row.average.empty())
        sweep_and_average(table, rule, average, own, row.average.data(), 0, p_.width(), of,
                          (*mean_)[touched_.rows()[k]].data);
      else
        sweep(table, rule, own, 0, p_.width(), of);
    });
  }
  gradients_.reset();
}

[[gnu::always_inline]] inline void RowPlan::prefetch(std::size_t k) const {
  fusedstep::prefetch(touched_.gradient(k), p_.width());
  fusedstep::prefetch(p_[touched_.rows()[k]], p_.width());
  for (const Rows& slot : state_) fusedstep::prefetch(slot[touched_.rows()[k]], p_.width());
  if (mean_) fusedstep::prefetch((*mean_)[touched_.rows()[k]], p_.width());
}

template <class Function>
void RowPlan::for_each_row(const Function& work) const {
  const std::size_t together = std::max<std::size_t>(1, Tiles::size / (p_.width() + line));
  const std::size_t tiles = (touched_.size() + together - 1) / together;
  for_each_range(tiles, Tiles::least_a_thread, [&](std::size_t first, std::size_t last) {
    for (std::size_t k = first * together; k < std::min(last * together, touched_.size()); ++k) {
      if (k + ahead < touched_.size()) prefetch(k + ahead);
      const std::int64_t row = touched_.rows()[k];
      Operands of = {p_[row], touched_.gradient(k), mean_ ? mean_->number() : p_.number(), nullptr};
      void* state[max_slots];
      for (std::size_t slot = 0; slot < state_.size(); ++slot) {
        of.kept = state_[slot].number();
        state[slot] = state_[slot][row].data;
      }
      of.state = state;
      work(k, of);
    }
  });
}

}  // namespace fusedstep
