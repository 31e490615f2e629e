// The prologue: what a step does to the gradient and the parameter before any rule.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// g ← scale·g, limited to -clip..clip;  p ← keep·p, with keep = 1 - lr·weight_decay (decoupled decay).
template <class T>
struct Decoupled {
  COEFFICIENTS(scale, clip, keep);

  void operator()(T& p, T& g) const {
    g = clamp(scale * g, clip);
    p = keep * p;
  }
};

/// The same, with g ← g + l2·p + l1·sign(p) between the two (coupled decay).
template <class T>
struct Coupled {
  COEFFICIENTS(scale, clip, keep, l2, l1);

  void operator()(T& p, T& g) const {
    g = clamp(scale * g, clip) + l2 * p + l1 * sign(p);
    p = keep * p;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
