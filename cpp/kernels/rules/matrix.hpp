// Steps along a direction that depends on the whole matrix. The first sweep fills it, the second steps along
// it; between the two it is computed from the whole matrix.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// The direction that Muon orthogonalizes: the momentum, or its Nesterov look-ahead.
template <class T>
struct MuonDirection {
  COEFFICIENTS(momentum, gain, now, past);

  void operator()(T, T g, T buf, T& o) const { o = now * g + past * (momentum * buf + gain * g); }
};

/// Muon. Jordan et al. 2024, kellerjordan.github.io/posts/muon.
template <class T>
struct Muon {
  COEFFICIENTS(momentum, gain, lr);

  void operator()(T& p, T g, T& buf, T o) const {
    buf = momentum * buf + gain * g;
    p = p - lr * o;
  }
};

/// The gradient itself, whose elements are then multiplied by factors of their rows and columns.
template <class T>
struct GradientDirection {
  COEFFICIENTS(scale);

  void operator()(T, T g, T& o) const { o = scale * g; }
};

/// Adafactor for matrices. Shazeer & Stern 2018, arXiv:1804.04235, Algorithm 4.
template <class T>
struct Adafactor {
  COEFFICIENTS(keep, step);

  Squares<2> measure(T p, T, T o) const { return {p, o}; }

  void operator()(T& p, T, T o) const { p = keep * p - step * o; }
};

/// Adafactor for vectors, which cannot be factored. arXiv:1804.04235, Algorithm 5.
template <class T>
struct AdafactorVector {
  COEFFICIENTS(decay, gain, least, keep, step);

  Squares<2> measure(T p, T g, T v) const { return {p, direction(g, next(g, v))}; }

  void operator()(T& p, T g, T& v) const {
    v = next(g, v);
    p = keep * p - step * direction(g, v);
  }

 private:
  T next(T g, T v) const { return term(decay, v) + term(gain, g * g); }
  T direction(T g, T v) const { return g / maximum(sqrt(v), least); }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
