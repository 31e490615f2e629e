// The seam between the kernels, compiled once per instruction set, and the rest: plain data only.
#pragma once

#include <stddef.h>

namespace fusedstep {

/// What the elements of a tensor, its gradient and its state are kept as.
enum Number { number_f32, number_f64, numbers };

/// Each row of coefficients starts with these; the rule's own follow, in the order of its fields.
enum Coefficient { c_scale, c_keep, c_l2, c_l1, c_rule };

/// Steps elements begin..end of one tensor.
using Sweep = void (*)(const double* coefficients, size_t begin, size_t end, void* p, const void* g,
                       void* const* state);

struct Kernel {
  const char* name;
  size_t slots;             // state arrays
  size_t coefficients;      // of the rule, without the prologue's
  Sweep sweep[numbers][2];  // [1]: with coupled decay
};

struct Table {
  const char* isa;
  const Kernel* kernels;
  size_t size;
};

}  // namespace fusedstep
