// Every rule for every format. Compiled once per instruction set, each time with another FUSEDSTEP_ISA;
// everything but the table at the end is local to the object, so no other object's code can be linked in its
// place.
#include <string.h>

#include <string_view>
#include <type_traits>
#include <utility>

#include "kernels/measure.hpp"
#include "kernels/passes.hpp"
#include "kernels/prologue.hpp"
#include "kernels/rules.hpp"
#include "kernels/summed.hpp"
#include "kernels/sweep.hpp"
#include "kernels/table.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Fills a struct whose members are all T from as many doubles.
template <class Struct, class T>
Struct fill(const double* values) {
  constexpr size_t count = sizeof(Struct) / sizeof(T);
  T fields[count];
  for (size_t i = 0; i < count; ++i) fields[i] = static_cast<T>(values[i]);
  Struct filled;
  memcpy(&filled, fields, sizeof filled);
  return filled;
}

/// Runs one kernel: makes the rule, its prologue and its state slots from the table's bare numbers and
/// pointers.
template <template <class> class Prologue, template <class> class Rule, class P, class G, class... S>
void run(const double* coefficients, size_t begin, size_t end, void* p, const void* g, void* const* state) {
  using T = typename Storage<std::remove_const_t<P>>::Arithmetic;
  [&]<size_t... slot>(std::index_sequence<slot...>) {
    sweep(fill<Prologue<T>, T>(coefficients), fill<Rule<T>, T>(coefficients + c_rule), begin, end,
          static_cast<P*>(p), static_cast<const G*>(g), static_cast<S*>(state[slot])...);
  }(std::index_sequence_for<S...>{});
}

/// Runs one kernel with the average of the parameter.
template <template <class> class Rule, class... S>
void run_averaged(const double* coefficients, const double* of_average, size_t begin, size_t end, void* p,
                  const void* g, void* average, void* const* state) {
  const Averaged<Rule<float>, float> rule = {fill<Rule<float>, float>(coefficients + c_rule),
                                             fill<Average<float>, float>(of_average + c_rule)};
  [&]<size_t... slot>(std::index_sequence<slot...>) {
    sweep(fill<Decoupled<float>, float>(coefficients), rule, begin, end, static_cast<float*>(p),
          static_cast<const float*>(g), static_cast<float*>(average), static_cast<S*>(state[slot])...);
  }(std::index_sequence_for<S...>{});
}

/// Runs one kernel, and sums squares.
template <template <class> class Rule, class... S>
void run_summed(const double* coefficients, size_t begin, size_t end, void* p, const void* g,
                void* const* state, double (*sums)[ranges][lanes]) {
  [&]<size_t... slot>(std::index_sequence<slot...>) {
    sweep_and_sum(fill<Decoupled<float>, float>(coefficients),
                  fill<Rule<float>, float>(coefficients + c_rule), begin, end, sums, static_cast<float*>(p),
                  static_cast<const float*>(g), static_cast<S*>(state[slot])...);
  }(std::index_sequence_for<S...>{});
}

/// Runs the pass before a kernel, which measures.
template <template <class> class Prologue, template <class> class Rule, class T, class... S>
void run_measure(const double* coefficients, const double* factors, size_t begin, size_t end, const void* p,
                 const void* g, void* const* state, double* sums) {
  [&]<size_t... slot>(std::index_sequence<slot...>) {
    measure(fill<Prologue<T>, T>(coefficients), fill<Rule<T>, T>(coefficients + c_rule), factors, begin, end,
            sums, static_cast<const T*>(p), static_cast<const T*>(g), static_cast<const S*>(state[slot])...);
  }(std::index_sequence_for<S...>{});
}

/// Whether this mix of parameter, gradient and state has a loop of its own.
template <class P, class G, class S>
constexpr bool has_loop() {
  constexpr bool all_alike = std::is_same_v<P, G> && std::is_same_v<P, S>;
  if constexpr (std::is_same_v<P, double> || std::is_same_v<G, double> || std::is_same_v<S, double>)
    return all_alike;
  constexpr bool narrow_gradients = std::is_same_v<P, float> && std::is_same_v<S, float>;
  constexpr bool wide_state = std::is_same_v<P, G> && std::is_same_v<S, float>;
  constexpr bool narrow_state =
      std::is_same_v<P, float> && std::is_same_v<G, float> && std::is_same_v<S, BFloat16>;
  return all_alike || narrow_gradients || wide_state || narrow_state;
}

/// Whether this mix has a loop with coupled decay too.
template <class P, class G, class S>
constexpr bool has_coupled_loop() {
  return std::is_same_v<P, G> && std::is_same_v<P, S> && std::is_same_v<P, typename Storage<P>::Arithmetic>;
}

/// The type of an array's elements: a rule writes what it takes by reference, and only reads what it takes by
/// value.
template <class Taken, class Kept>
using Slot = std::conditional_t<std::is_reference_v<Taken>, Kept, const Kept>;

template <template <class> class Rule, class Parameter, class... Taken>
struct Entry {
  static constexpr size_t slots = sizeof...(Taken);
  static_assert(slots + 1 <= max_slots, "more state than max_slots, with the average of the weights");

  Kernel kernel;

  constexpr explicit Entry(const char* name)
      : kernel{name, slots, Rule<double>::names, 0, false, {}, nullptr, nullptr, {}} {
    parameter<float>(format_f32);
    parameter<double>(format_f64);
    parameter<BFloat16>(format_bf16);
    parameter<Float16>(format_f16);
    if constexpr (std::is_reference_v<Parameter>) {
      kernel.averaged = run_averaged<Rule, Slot<Taken, float>...>;
      kernel.summed = run_summed<Rule, Slot<Taken, float>...>;
    }
    if constexpr (requires { &Rule<double>::measure; }) {
      using Added = decltype(added(&Rule<double>::measure));
      static_assert(Added::count <= max_sums, "more sums than max_sums");
      kernel.sums = Added::count;
      kernel.squares = Added::squares;
      measured<float>(format_f32);
      measured<double>(format_f64);
    }
  }

 private:
  template <class P>
  constexpr void parameter(Format p) {
    gradient<P, float>(p, format_f32);
    gradient<P, double>(p, format_f64);
    gradient<P, BFloat16>(p, format_bf16);
    gradient<P, Float16>(p, format_f16);
  }

  template <class P, class G>
  constexpr void gradient(Format p, Format g) {
    state<P, G, float>(p, g, format_f32);
    state<P, G, double>(p, g, format_f64);
    state<P, G, BFloat16>(p, g, format_bf16);
    state<P, G, Float16>(p, g, format_f16);
  }

  template <class P, class G, class S>
  constexpr void state(Format p, Format g, Format s) {
    if constexpr (has_loop<P, G, S>())
      kernel.sweep[p][g][s][0] = run<Decoupled, Rule, Slot<Parameter, P>, G, Slot<Taken, S>...>;
    if constexpr (has_coupled_loop<P, G, S>())
      kernel.sweep[p][g][s][1] = run<Coupled, Rule, Slot<Parameter, P>, G, Slot<Taken, S>...>;
  }

  template <class... T, class Added>
  static constexpr Added added(Added (Rule<double>::*)(double, double, T...) const);

  template <class T>
  constexpr void measured(Format all) {
    kernel.measure[all][0] = run_measure<Decoupled, Rule, T, Slot<Taken, T>...>;
    kernel.measure[all][1] = run_measure<Coupled, Rule, T, Slot<Taken, T>...>;
  }
};

/// The kernel of a rule. Its state slots are the arguments after p and g.
template <template <class> class Rule, class T, class Parameter, class... Taken>
constexpr Kernel entry(const char* name, void (Rule<T>::*)(Parameter, T, Taken...) const) {
  return Entry<Rule, Parameter, Taken...>(name).kernel;
}

#define FUSEDSTEP_KERNEL(Rule) entry(#Rule, &Rule<double>::operator()),
constexpr Kernel kernels[] = {FUSEDSTEP_RULES(FUSEDSTEP_KERNEL)};

/// The kernel of the average, found in the list of rules.
constexpr const Kernel* average() {
  const Kernel* kernel = kernels;
  while (std::string_view(kernel->name) != "Average") ++kernel;
  return kernel;
}

static_assert(sizeof(Coupled<double>) == c_rule * sizeof(double));

}  // namespace

// Arrays are in the order of Format. float64 is not converted, since it mixes with no other format.
extern const Table table;
constexpr Table table = {
    FUSEDSTEP_ISA_NAME,
    kernels,
    sizeof kernels / sizeof *kernels,
    Coupled<double>::names,
    average(),
    {widen<float>, nullptr, widen<BFloat16>, widen<Float16>},
    {narrow<float>, nullptr, narrow<BFloat16>, narrow<Float16>},
    {squares<float>, squares<double>, squares<BFloat16>, squares<Float16>},
    {ranged_squares<float>, ranged_squares<double>, ranged_squares<BFloat16>, ranged_squares<Float16>},
    {scaling<float>, scaling<double>, scaling<BFloat16>, scaling<Float16>},
    {row_squares<float>, row_squares<double>},
    {row_product<float>, row_product<double>}};

}  // namespace fusedstep::FUSEDSTEP_ISA
