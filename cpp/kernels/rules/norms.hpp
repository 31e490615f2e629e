// Steps whose size depends on norms over the tensor; `measure` gives the numbers whose squares they sum. A
// ratio of norms that is too large or too small for one coefficient has a part in `unit`, a power of 2 that
// is else 1.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// LARS. You, Gitman & Ginsburg 2017, arXiv:1708.03888, Algorithm 1.
template <class T>
struct LARS {
  COEFFICIENTS(momentum, decay, step, unit);

  Squares<2> measure(T p, T g, T) const { return {p, g}; }

  void operator()(T& p, T g, T& v) const {
    v = momentum * v + step * (unit * (g + decay * p));
    p = p - v;
  }
};

/// LAMB. You et al. 2020, arXiv:1904.00962, Algorithm 2.
template <class T>
struct LAMB {
  COEFFICIENTS(beta1, gain1, beta2, gain2, correction, root, eps, decay, step, unit);

  Squares<2> measure(T p, T g, T m, T v) const {
    return {p, direction(p, beta1 * m + gain1 * g, term(beta2, v) + gain2 * (g * g))};
  }

  void operator()(T& p, T g, T& m, T& v) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    p = p - step * (unit * direction(p, m, v));
  }

 private:
  T direction(T p, T m, T v) const { return correction * m / (sqrt(v) * root + eps) + decay * p; }
};

/// StableAdamW: AdamW with a smaller step if the gradient is large compared with v. Wortsman et al. 2023,
/// arXiv:2304.13013, Algorithm 2.
template <class T>
struct StableAdamW {
  COEFFICIENTS(beta1, gain1, beta2, gain2, root, eps, keep, step);

  Squares<1> measure(T, T g, T, T v) const {
    v = term(beta2, v) + gain2 * (g * g);
    return {g / maximum(sqrt(v) * root, eps)};
  }

  void operator()(T& p, T g, T& m, T& v) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    p = keep * p - step * m / (sqrt(v) * root + eps);
  }
};

/// NovoGrad: one second moment for the whole tensor. Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1.
template <class T>
struct NovoGrad {
  COEFFICIENTS(beta1, decay, lr, gain, unit);

  Squares<1> measure(T, T g, T) const { return {g}; }

  void operator()(T& p, T g, T& m) const {
    m = beta1 * m + gain * (unit * g) + decay * p;
    p = p - lr * m;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
