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

/// A rule, and then the average of what it has made of the parameter: the first slot.
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

/// The mean of all so far. Polyak & Juditsky 1992, doi:10.1137/0330046. Equal weights leave it.
template <class T>
struct Mean {
  T share;

  void operator()(T& mean, T weight) const { mean = mean + share * (weight - mean); }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
