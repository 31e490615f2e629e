// Steps whose size depends on norms over the tensor; `measure` gives each element's squares.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// LARS. You, Gitman & Ginsburg 2017, arXiv:1708.03888, Algorithm 1.
template <class T>
struct LARS {
  COEFFICIENTS(momentum, decay, step);

  Terms<2> measure(T p, T g, T) const { return {square(p), square(g)}; }

  void operator()(T& p, T g, T& v) const {
    v = momentum * v + step * (g + decay * p);
    p = p - v;
  }
};

/// LAMB. You et al. 2020, arXiv:1904.00962, Algorithm 2.
template <class T>
struct LAMB {
  COEFFICIENTS(beta1, gain1, beta2, gain2, correction, root, eps, decay, step);

  Terms<2> measure(T p, T g, T m, T v) const {
    return {square(p), square(direction(p, beta1 * m + gain1 * g, beta2 * v + gain2 * (g * g)))};
  }

  void operator()(T& p, T g, T& m, T& v) const {
    m = beta1 * m + gain1 * g;
    v = beta2 * v + gain2 * (g * g);
    p = p - step * direction(p, m, v);
  }

 private:
  T direction(T p, T m, T v) const { return correction * m / (sqrt(v) * root + eps) + decay * p; }
};

/// StableAdamW: AdamW with a smaller step if the gradient is large compared with v. Wortsman et al. 2023,
/// arXiv:2304.13013, Algorithm 2.
template <class T>
struct StableAdamW {
  COEFFICIENTS(beta1, gain1, beta2, gain2, root, eps, keep, step);

  Terms<1> measure(T, T g, T, T v) const {
    v = beta2 * v + gain2 * (g * g);
    return {square(g / maximum(sqrt(v) * root, eps))};
  }

  void operator()(T& p, T g, T& m, T& v) const {
    m = beta1 * m + gain1 * g;
    v = beta2 * v + gain2 * (g * g);
    p = keep * p - step * m / (sqrt(v) * root + eps);
  }
};

/// NovoGrad: one second moment for the whole tensor. Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1.
template <class T>
struct NovoGrad {
  COEFFICIENTS(beta1, decay, lr, gain);

  Terms<1> measure(T, T g, T) const { return {square(g)}; }

  void operator()(T& p, T g, T& m) const {
    m = beta1 * m + gain * g + decay * p;
    p = p - lr * m;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
