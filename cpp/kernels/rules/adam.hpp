// Adaptive moments: a running mean of the gradient over the root of a running mean of its square.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Adam. Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1.
template <class T>
struct Adam {
  COEFFICIENTS(beta1, gain1, beta2, gain2, root, eps, step);

  void operator()(T& p, T g, T& m, T& v) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    p = p - step * m / (sqrt(v) * root + eps);
  }
};

/// AMSGrad. Reddi, Kale & Kumar 2018, arXiv:1904.09237.
template <class T>
struct AMSGrad {
  COEFFICIENTS(beta1, gain1, beta2, gain2, root, eps, step);

  void operator()(T& p, T g, T& m, T& v, T& vmax) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    vmax = maximum(vmax, v);
    p = p - step * m / (sqrt(vmax) * root + eps);
  }
};

/// Adam with Nesterov momentum. Dozat 2016, ICLR workshop, Algorithm 2.
template <class T>
struct NAdam {
  COEFFICIENTS(beta1, gain1, beta2, gain2, ahead, step, root, eps);  // ahead multiplies g, step m

  void operator()(T& p, T g, T& m, T& v) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    p = p - (ahead * g + step * m) / (sqrt(v) * root + eps);
  }
};

/// The same, but divided by the root of the largest v so far, as in AMSGrad.
template <class T>
struct NAMSGrad {
  COEFFICIENTS(beta1, gain1, beta2, gain2, ahead, step, root, eps);

  void operator()(T& p, T g, T& m, T& v, T& vmax) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    vmax = maximum(vmax, v);
    p = p - (ahead * g + step * m) / (sqrt(vmax) * root + eps);
  }
};

/// Adamax: Adam with the infinity norm. Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2.
template <class T>
struct Adamax {
  COEFFICIENTS(beta1, gain1, beta2, step, eps);

  void operator()(T& p, T g, T& m, T& u) const {
    m = beta1 * m + gain1 * g;
    u = maximum(beta2 * u, absolute(g) + eps);
    p = p - step * m / u;
  }
};

/// Rectified Adam. Liu et al. 2020, arXiv:1908.03265, Algorithm 2.
template <class T>
struct RAdam {
  COEFFICIENTS(beta1, gain1, beta2, gain2, step, rectified, eps);  // rectified = 1 where ρ > 5, else 0

  void operator()(T& p, T g, T& m, T& v) const {
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * (g * g);
    p = p - step * m / (rectified > 0 ? sqrt(v) + eps : T(1));
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
