// Tests that a step is the same in every mix of formats, of any length and anywhere in memory.
#include <cstddef>
#include <utility>

#include "support.hpp"

namespace fusedstep::testing {
namespace {

/// What a step reads and writes. Its numbers are such that no format rounds them, before and after the step.
struct Numbers {
  explicit Numbers(std::size_t n)
      : p(whole_numbers(n, 1)), g(whole_numbers(n, 2)), v(whole_numbers(n, 3)), mean(whole_numbers(n, 4)) {}

  Floats p, g, v, mean;
};

/// Momentum with an average and, if it is coupled, with l2 = 1.
void step(Numbers& x, bool coupled) {
  for (std::size_t i = 0; i < x.p.size(); ++i) {
    x.v[i] = 0.5F * x.v[i] - 0.5F * (x.g[i] + (coupled ? x.p[i] : 0));
    x.p[i] = x.p[i] + x.v[i];
    x.mean[i] = 0.5F * x.mean[i] + 0.5F * x.p[i];
  }
}

struct Mix {
  Format p, g, v, mean;
};

void a_mix_is_exact(const Mix& mix, std::size_t n, std::size_t offset, bool coupled) {
  const std::size_t momentum = kernel_named("Momentum"), average = kernel_named("Average");
  Numbers expected(n);
  Kept p(mix.p, expected.p, offset), g(mix.g, expected.g, offset), v(mix.v, expected.v, offset),
      mean(mix.mean, expected.mean, offset);
  step(expected, coupled);

  Tensor tensor;
  tensor.size = n;
  tensor.p = p.array();
  tensor.g = g.array();
  tensor.state[0] = v.array();
  tensor.average = mean.array();
  tensor.stepped = true;
  Coefficients coefficients = named(momentum, {{"momentum", 0.5}, {"lr", 0.5}});
  coefficients.rule[c_l2] = coupled;
  coefficients.average = named(average, {{"decay", 0.5}, {"gain", 0.5}}).rule;
  Plan plan({{momentum}}, average, {tensor});
  run(plan, 0, {coefficients}, true);

  require(p.values() == expected.p && v.values() == expected.v, "a step in a mix of formats");
  require(mean.values() == expected.mean, "an average in a mix of formats");
  require(g.values() == Floats(n), "a gradient in a mix of formats is not set to 0");
  for (Kept* kept : {&p, &g, &v, &mean}) require(kept->untouched_before(), "what lies before an array");
}

}  // namespace

void mixes() {
  std::vector<Mix> mixes = {{format_f64, format_f64, format_f64, format_f64}};
  const auto narrow = {format_f32, format_bf16, format_f16};
  for (const Format p : narrow)
    for (const Format g : narrow)
      for (const Format v : narrow) mixes.push_back({p, g, v, v});
  for (const Mix& mix : mixes)
    for (const auto& [n, offset] : {std::pair<std::size_t, std::size_t>{1, 3}, {31, 1}, {257, 0}, {12289, 3}})
      for (const bool coupled : {false, true}) a_mix_is_exact(mix, n, offset, coupled);
}

}  // namespace fusedstep::testing
