// Averages of weights. What is updated is the average; its gradient, the weight.
#pragma once

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Exponential moving average, which any rule can keep.
template <class T>
struct Average {
  T decay, gain;

  void operator()(T& mean, T weight) const { mean = decay * mean + gain * weight; }
};

/// The mean of all so far. Polyak & Juditsky 1992, doi:10.1137/0330046. Equal weights leave it.
template <class T>
struct Mean {
  T share;

  void operator()(T& mean, T weight) const { mean = mean + share * (weight - mean); }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
