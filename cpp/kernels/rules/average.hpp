// Averages of weights, as rules: the average is the parameter, and the weight is its gradient.
#pragma once

#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Exponential moving average of the weights, which any rule can keep.
template <class T>
struct Average {
  COEFFICIENTS(decay, gain);

  void operator()(T& mean, T weight) const { mean = decay * mean + gain * weight; }
};

/// A rule, followed by the average of the updated parameter. The average is the first slot.
template <class Rule, class T>
struct Averaged {
  Rule rule;
  Average<T> average;

  template <class... S>
  void operator()(T& p, T g, T& mean, S&... s) const {
    rule(p, g, s...);
    average(mean, p);
  }
};

/// The mean of all weights so far. Polyak & Juditsky 1992, doi:10.1137/0330046. A weight equal to the mean
/// leaves it.
template <class T>
struct Mean {
  COEFFICIENTS(share);

  void operator()(T& mean, T weight) const { mean = mean + share * (weight - mean); }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
