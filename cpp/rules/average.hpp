// The average of the weights, which any rule can keep.
#pragma once

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Exponential moving average. Polyak & Juditsky 1992. What is updated is the average; its gradient, the
/// weight.
template <class T>
struct Average {
  T decay, gain;

  void operator()(T& mean, T weight) const { mean = decay * mean + gain * weight; }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
