// Steps along a direction that is made of the whole matrix, between the two passes here.
#pragma once

#include "../arithmetic.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// What Muon orthogonalizes: the momentum, or where it leads next.
template <class T>
struct MuonDirection {
  T momentum, gain, now, past;

  void operator()(T, T g, T buf, T& o) const { o = now * g + past * (momentum * buf + gain * g); }
};

/// Muon. Jordan et al. 2024, kellerjordan.github.io/posts/muon.
template <class T>
struct Muon {
  T momentum, gain, lr;

  void operator()(T& p, T g, T& buf, T o) const {
    buf = momentum * buf + gain * g;
    p = p - lr * o;
  }
};

/// The gradient itself, which is then divided by what is known of rows and columns.
template <class T>
struct GradientDirection {
  T scale;

  void operator()(T, T g, T& o) const { o = scale * g; }
};

/// Adafactor of matrices. Shazeer & Stern 2018, arXiv:1804.04235, Algorithm 4.
template <class T>
struct Adafactor {
  T keep, step;

  Terms<2> measure(T p, T, T o) const { return {square(p), square(o)}; }

  void operator()(T& p, T, T o) const { p = keep * p - step * o; }
};

/// Adafactor of vectors, which have nothing to factor. arXiv:1804.04235, Algorithm 5.
template <class T>
struct AdafactorVector {
  T decay, gain, least, keep, step;

  Terms<2> measure(T p, T g, T v) const { return {square(p), square(direction(g, next(g, v)))}; }

  void operator()(T& p, T g, T& v) const {
    v = next(g, v);
    p = keep * p - step * direction(g, v);
  }

 private:
  T next(T g, T v) const { return decay * v + gain * (g * g); }
  T direction(T g, T v) const { return g / maximum(sqrt(v), least); }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
