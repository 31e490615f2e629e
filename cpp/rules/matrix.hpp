// Steps along a direction that is made of the whole matrix, between the two passes here.
#pragma once

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

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
