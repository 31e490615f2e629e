// The seam between the kernels, compiled once per instruction set, and the rest: plain data only.
#pragma once

#include <stddef.h>

namespace fusedstep {

/// What the elements of an array are kept as.
enum Number { number_f32, number_f64, number_bf16, number_f16, numbers };

/// Each row of coefficients starts with these; the rule's own follow, in the order of its fields.
enum Coefficient { c_scale, c_clip, c_keep, c_l2, c_l1, c_rule };

/// Steps elements begin..end of one tensor.
using Sweep = void (*)(const double* coefficients, size_t begin, size_t end, void* p, const void* g,
                       void* const* state);

/// The same, after which the average of the parameter is updated, with coefficients of its own.
using AveragedSweep = void (*)(const double* coefficients, const double* of_average, size_t begin, size_t end,
                               void* p, const void* g, void* average, void* const* state);

/// Adds what elements begin..end say to the `lanes` of each of the sums that the rule's step depends on; the
/// first element goes to lane 0.
using Measure = void (*)(const double* coefficients, size_t begin, size_t end, const void* p, const void* g,
                         void* const* state, double* sums);

struct Kernel {
  const char* name;
  size_t slots;         // state arrays
  size_t coefficients;  // of the rule, without the prologue's
  size_t sums;          // over the tensor
  // By the numbers of parameter, gradient and state, and [1] with coupled decay. Null where a mix has no loop
  // of its own.
  Sweep sweep[numbers][numbers][numbers][2];
  AveragedSweep averaged;  // all float32, with decoupled decay; null where the parameter is only read
  // By the number of all, float32 or float64, and [1] with coupled decay. Null without sums.
  Measure measure[2][2];
};

/// Copies n elements from `number` to float32 (widen) or back (narrow, rounding once).
using Convert = void (*)(size_t n, const void* from, void* to);

/// How many sums of squares run side by side: element i of all goes to lane i mod lanes.
constexpr size_t lanes = 32;

/// Adds the squares of factor·g to the lanes, in double; element `begin` goes to `lane`.
using Squares = void (*)(double factor, size_t begin, size_t end, const void* g, size_t lane, double* sums);

/// g ← factor·g.
using Scaling = void (*)(double factor, size_t begin, size_t end, void* g);

/// Adds the squares of elements begin..end of a row to the lanes, and each to its column's sum; the first
/// element goes to lane 0.
using RowSquares = void (*)(size_t begin, size_t end, const void* row, double* sums, double* columns);

/// row[j] ← row[j]·min(factor·columns[j], limit).
using RowProduct = void (*)(size_t n, void* row, double factor, const double* columns, double limit);

struct Table {
  const char* isa;
  const Kernel* kernels;
  size_t size;
  Convert widen[numbers], narrow[numbers];
  Squares squares[numbers];
  Scaling scaling[numbers];
  RowSquares row_squares[2];  // of float32 and float64
  RowProduct row_product[2];
};

}  // namespace fusedstep
