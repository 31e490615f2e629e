// The interface between the kernels, compiled once per instruction set, and the rest: plain data only.
#pragma once

#include <stddef.h>

namespace fusedstep {

/// The format in which an array keeps its elements; `formats` is their number.
enum Format { format_f32, format_f64, format_bf16, format_f16, formats };

/// The coefficients of a pass: first those of the prologue, then those of the rule in the order of its
/// fields.
enum Coefficient { c_scale, c_clip, c_keep, c_l2, c_l1, c_rule };

/// The most state arrays that a tensor may have, including the average of its weights, and the most sums over
/// it that its step may depend on. A rule with more does not compile.
constexpr size_t max_slots = 8, max_sums = 2;

/// The number of lanes, the partial sums that each sum is made of: element i of all goes to lane i mod lanes.
constexpr size_t lanes = 32;

/// The squares that a step sums: of gradients as they are given, of the weights before the step, and of the
/// update, the weights after it less those before it.
enum StepSum { sum_of_gradients, sum_of_weights, sum_of_update, step_sums };

/// Squares of float64 can leave its range, so numbers below 2⁻⁴⁵⁰ are summed apart, times 2⁶⁰⁰, and those
/// from 2⁴⁵⁰ on, times 2⁻⁶⁰⁰. All other formats have numbers of the middle alone.
enum Range { range_middle, range_small, range_large, ranges };

/// Steps elements begin..end of one tensor.
using Sweep = void (*)(const double* coefficients, size_t begin, size_t end, void* p, const void* g,
                       void* const* state);

/// The same, and then updates the average of the parameter, which has its own coefficients.
using AveragedSweep = void (*)(const double* coefficients, const double* of_average, size_t begin, size_t end,
                               void* p, const void* g, void* average, void* const* state);

/// The same as a sweep, and adds the squares to the lanes, in double; element `begin` goes to lane 0.
using SummedSweep = void (*)(const double* coefficients, size_t begin, size_t end, void* p, const void* g,
                             void* const* state, double (*sums)[ranges][lanes]);

/// Adds the terms of elements begin..end to the `lanes` lanes of each sum that the rule's step depends on;
/// the first element goes to lane 0. If the terms are squares, they are those of numbers times the sum's
/// factor.
using Measure = void (*)(const double* coefficients, const double* factors, size_t begin, size_t end,
                         const void* p, const void* g, void* const* state, double* sums);

struct Kernel {
  const char* name;
  size_t slots;              // the number of state arrays
  const char* coefficients;  // the names of the rule's own, separated by a comma and a space
  size_t sums;               // the number of sums over the tensor
  bool squares;              // whether they are sums of squares
  // Indexed by the formats of parameter, gradient and state; last [1] with coupled decay, [0] without. Null
  // if a mix has no loop of its own.
  Sweep sweep[formats][formats][formats][2];
  // All float32, decoupled decay; null if the rule only reads the parameter.
  AveragedSweep averaged;
  SummedSweep summed;
  // Indexed by the format of all arrays, float32 or float64; last [1] with coupled decay. Null without sums.
  Measure measure[2][2];
};

/// Copies n elements from a format to float32 (widen) or back (narrow, rounding once).
using Convert = void (*)(size_t n, const void* from, void* to);

/// Adds the squares of factor·g to the lanes, in double; element `begin` goes to `lane`.
using Squares = void (*)(double factor, size_t begin, size_t end, const void* g, size_t lane, double* sums);

/// Adds the squares of n numbers x, or, unless y is null, of x - y, to the lanes, in double; the first goes
/// to lane 0.
using RangedSquares = void (*)(size_t n, const void* x, const void* y, double (*sums)[lanes]);

/// g ← factor·g.
using Scaling = void (*)(double factor, size_t begin, size_t end, void* g);

/// Adds the square of each of elements begin..end of a row to its lane and to the sum of its column; the
/// first element goes to lane 0.
using RowSquares = void (*)(size_t begin, size_t end, const void* row, double* sums, double* columns);

/// row[j] ← row[j]·min(factor·columns[j], limit).
using RowProduct = void (*)(size_t n, void* row, double factor, const double* columns, double limit);

struct Table {
  const char* isa;
  const Kernel* kernels;
  size_t size;
  const char* prologue;   // the names of the prologue's coefficients
  const Kernel* average;  // the rule by which `averaged` sweeps update the average
  Convert widen[formats], narrow[formats];
  Squares squares[formats];
  RangedSquares ranged_squares[formats];
  Scaling scaling[formats];
  RowSquares row_squares[2];  // for float32 and float64
  RowProduct row_product[2];
};

}  // namespace fusedstep
