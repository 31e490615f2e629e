// Every rule for every number type. Compiled once per instruction set, each time with another FUSEDSTEP_ISA;
// everything but the table at the end is local to the object, so no other object's code can be linked in its
// place.
#include <string.h>

#include <utility>

#include "prologue.hpp"
#include "rules.hpp"
#include "sweep.hpp"
#include "table.hpp"

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

/// One kernel: the bare numbers and pointers of the table become the rule, its prologue and its state slots.
template <template <class> class Prologue, template <class> class Rule, class Kept, size_t... slot>
void run(const double* coefficients, size_t begin, size_t end, void* p, const void* g, void* const* state) {
  using T = typename Storage<Kept>::Arithmetic;
  sweep(fill<Prologue<T>, T>(coefficients), fill<Rule<T>, T>(coefficients + c_rule), begin, end,
        static_cast<Kept*>(p), static_cast<const Kept*>(g), static_cast<Kept*>(state[slot])...);
}

template <template <class> class Rule, size_t... slot>
constexpr Kernel entry(const char* name, std::index_sequence<slot...>) {
  return {name,
          sizeof...(slot),
          sizeof(Rule<double>) / sizeof(double),
          {{run<Decoupled, Rule, float, slot...>, run<Coupled, Rule, float, slot...>},
           {run<Decoupled, Rule, double, slot...>, run<Coupled, Rule, double, slot...>}}};
}

/// The state slots are what a rule takes after p and g.
template <class Rule, class T, class... S>
constexpr std::index_sequence_for<S...> slots(void (Rule::*)(T&, T, S&...) const) {
  return {};
}

#define FUSEDSTEP_KERNEL(Rule) entry<Rule>(#Rule, slots(&Rule<double>::operator())),
constexpr Kernel kernels[] = {FUSEDSTEP_RULES(FUSEDSTEP_KERNEL)};

}  // namespace

extern const Table table;
constexpr Table table = {FUSEDSTEP_ISA_NAME, kernels, sizeof kernels / sizeof *kernels};

}  // namespace fusedstep::FUSEDSTEP_ISA
