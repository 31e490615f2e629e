// Relatives of Adam, with other moments of the gradient.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// AdaBelief: s averages the squared distance of the gradient from m. Zhuang et al. 2020, arXiv:2010.07468.
template <class T>
struct AdaBelief {
  COEFFICIENTS(beta1, gain1, beta2, gain2, step, root, eps);

  void operator()(T& p, T g, T& m, T& s) const {
    m = beta1 * m + gain1 * g;
    const T surprise = g - m;
    s = term(beta2, s) + gain2 * (surprise * surprise) + eps;
    p = p - step * m / (sqrt(s) * root + eps);
  }
};

/// Yogi: the size of v's change depends on the gradient alone, not on v. Zaheer et al. 2018, NeurIPS.
template <class T>
struct Yogi {
  COEFFICIENTS(beta1, gain1, gain2, step, root, eps);

  void operator()(T& p, T g, T& m, T& v) const {
    const T square = g * g;
    m = beta1 * m + gain1 * g;
    v = v == square ? v : v - gain2 * sign(v - square) * square;
    p = p - step * m / (sqrt(v) * root + eps);
  }
};

/// AdEMAMix: a fast and a slow mean. Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137, Algorithm 1.
template <class T>
struct AdEMAMix {
  COEFFICIENTS(beta1, gain1, beta3, gain3, beta2, gain2, fast, slow, root, eps);

  void operator()(T& p, T g, T& m, T& m2, T& v) const {
    m = beta1 * m + gain1 * g;
    m2 = beta3 * m2 + gain3 * g;
    v = term(beta2, v) + gain2 * (g * g);
    p = p - (fast * m + slow * m2) / (sqrt(v) * root + eps);
  }
};

/// ADOPT: the gradient is divided by the root of the previous v before it enters the mean. Taniguchi et al.
/// 2024, arXiv:2411.02853, Algorithm 2.
template <class T>
struct ADOPT {
  COEFFICIENTS(beta1, gain1, beta2, gain2, eps, clip, lr);

  void operator()(T& p, T g, T& m, T& v) const {
    m = term(beta1, m) + gain1 * clamp(g / maximum(sqrt(v), eps), clip);
    v = term(beta2, v) + gain2 * (g * g);
    p = p - term(lr, m);
  }
};

/// Adan: means of the gradient and of its change. Xie et al. 2022, arXiv:2208.06677, Algorithm 1.
template <class T>
struct Adan {
  COEFFICIENTS(begun, beta1, gain1, beta2, gain2, beta3, gain3, step, onward, root, eps, shrink);

  void operator()(T& p, T g, T& m, T& d, T& n, T& prev) const {
    const T change = clamp(begun > 0 ? g - prev : T(0), largest<T>);
    const T ahead = g + beta2 * change;
    m = beta1 * m + gain1 * g;
    d = beta2 * d + gain2 * change;
    n = term(beta3, n) + gain3 * (ahead * ahead);
    p = (p - (step * m + onward * d) / (sqrt(n) * root + eps)) * shrink;
    prev = g;
  }
};

/// LaProp: the division comes before the mean. Ziyin, Wang & Ueda 2020, arXiv:2002.04839, Algorithm 1.
template <class T>
struct LaProp {
  COEFFICIENTS(beta1, step, beta2, gain2, root, eps, correction);

  void operator()(T& p, T g, T& m, T& v) const {
    v = term(beta2, v) + gain2 * (g * g);
    m = beta1 * m + step * g / (sqrt(v) * root + eps);
    p = p - correction * m;
  }
};

/// QHAdam: each mean is mixed with its newest term. Ma & Yarats 2019, arXiv:1810.06801, eq. 14.
template <class T>
struct QHAdam {
  COEFFICIENTS(beta1, gain1, beta2, gain2, now1, past1, now2, past2, eps);

  void operator()(T& p, T g, T& m, T& v) const {
    const T square = g * g;
    m = beta1 * m + gain1 * g;
    v = term(beta2, v) + gain2 * square;
    p = p - (now1 * g + past1 * m) / (sqrt(term(now2, square) + term(past2, v)) + eps);
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
