// Tests that steps of the C++ half alone give the same bits as their formulas in plain C++.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "step/parallel.hpp"
#include "step/plan.hpp"
#include "step/reduce.hpp"
#include "step/table_rows.hpp"
#include "support.hpp"

namespace fusedstep::testing {
namespace {

const Values adam_values = {{"beta1", 0.9},   {"gain1", 1 - 0.9}, {"beta2", 0.999}, {"gain2", 1 - 0.999},
                            {"root", 1.0625}, {"eps", 1e-8},      {"step", 1e-3}};

/// Adam of Kingma & Ba 2015, with the bias corrections inside step and root.
void adam(Floats& p, const Floats& g, Floats& m, Floats& v) {
  const auto beta1 = static_cast<float>(0.9), gain1 = static_cast<float>(1 - 0.9);
  const auto beta2 = static_cast<float>(0.999), gain2 = static_cast<float>(1 - 0.999);
  const float root = 1.0625F, eps = 1e-8F, step = 1e-3F;
  for (std::size_t i = 0; i < p.size(); ++i) {
    m[i] = beta1 * m[i] + gain1 * g[i];
    v[i] = beta2 * v[i] + gain2 * (g[i] * g[i]);
    p[i] = p[i] - step * m[i] / (std::sqrt(v[i]) * root + eps);
  }
}

/// Adam gives the bits of its formula for a large tensor, a small one and an empty one.
void adam_is_its_formula() {
  const std::size_t kernel = kernel_named("Adam");
  std::vector<Floats> p, g, m, v;
  for (const std::size_t n : {std::size_t{40001}, std::size_t{7}, std::size_t{0}}) {
    p.push_back(numbers(n, 1));
    g.push_back(numbers(n, 2));
    m.push_back(numbers(n, 3));
    v.push_back(squared(numbers(n, 4)));
  }
  auto expected_p = p, expected_m = m, expected_v = v;
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < p.size(); ++i) {
    adam(expected_p[i], g[i], expected_m[i], expected_v[i]);
    tensors.push_back(tensor_of(p[i], g[i], {float32(m[i]), float32(v[i])}));
  }
  Plan plan({{kernel}}, kernel_named("Average"), tensors);
  run(plan, 0, {named(kernel, adam_values)}, true);
  for (std::size_t i = 0; i < p.size(); ++i) {
    require(same_bits(p[i], expected_p[i]), "the parameters of Adam");
    require(same_bits(m[i], expected_m[i]) && same_bits(v[i], expected_v[i]), "the state of Adam");
    require(same_bits(g[i], Floats(g[i].size())), "gradients are not set to 0");
  }
}

/// With m in bfloat16 and v in float32, a step computes in float32 and rounds m once.
void slots_have_formats_of_their_own() {
  const std::size_t kernel = kernel_named("Adam"), n = 10007;
  Floats p = numbers(n, 1), g = numbers(n, 2), v = squared(numbers(n, 4)), wide_m;
  std::vector<std::uint16_t> m;
  for (const float x : numbers(n, 3)) {
    m.push_back(bfloat16(x));
    wide_m.push_back(from_bfloat16(m.back()));
  }
  Floats expected_p = p, expected_v = v;
  adam(expected_p, g, wide_m, expected_v);
  std::vector<std::uint16_t> expected_m;
  for (const float x : wide_m) expected_m.push_back(bfloat16(x));

  Plan plan({{kernel}}, kernel_named("Average"), {tensor_of(p, g, {{format_bf16, m.data()}, float32(v)})});
  run(plan, 0, {named(kernel, adam_values)}, false);
  require(same_bits(p, expected_p) && same_bits(v, expected_v), "what is beside a slot in bfloat16");
  require(same_bits(m, expected_m), "a slot in bfloat16");
}

/// The average is updated in the loop of the rule, or in a loop of its own if it is kept in a narrower
/// format.
void averages_follow() {
  const std::size_t kernel = kernel_named("SGD"), n = 5000;
  const float lr = 0.125F, decay = 0.75F, gain = 0.25F;
  Floats p = numbers(n, 1), g = numbers(n, 2), expected_p = p, mean = numbers(n, 3), expected_mean = mean;
  std::vector<std::uint16_t> narrow(n), expected_narrow(n);
  for (std::size_t i = 0; i < n; ++i) {
    narrow[i] = bfloat16(mean[i]);
    expected_p[i] = p[i] - lr * g[i];
    expected_mean[i] = decay * mean[i] + gain * expected_p[i];
    expected_narrow[i] = bfloat16(decay * from_bfloat16(narrow[i]) + gain * expected_p[i]);
  }
  Floats same_p = p;
  Tensor wide = tensor_of(p, g, {}), other = tensor_of(same_p, g, {});
  wide.average = float32(mean);
  other.average = {format_bf16, narrow.data()};
  Coefficients coefficients = named(kernel, {{"lr", lr}});
  coefficients.average = named(kernel_named("Average"), {{"decay", decay}, {"gain", gain}}).rule;
  Plan plan({{kernel}}, kernel_named("Average"), {wide, other});
  run(plan, 0, {coefficients}, false);
  require(same_bits(p, expected_p) && same_bits(same_p, expected_p), "a parameter that is averaged");
  require(same_bits(mean, expected_mean), "an average in float32");
  require(same_bits(narrow, expected_narrow), "an average in bfloat16");
}

/// Each touched row is stepped as a tensor of its own, with its own coefficients; the others stay as they
/// were.
void rows_are_tensors() {
  const std::size_t kernel = kernel_named("RowwiseAdagradRow"), width = 33, rows = 50, gap = 5;
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>((width + gap) * sizeof(float));
  Floats p = numbers(rows * (width + gap), 1), expected = p;
  const std::vector<std::int64_t> indices = {7, 3, 49, 7, 0, 7};
  const Floats values = numbers(indices.size() * width, 2);
  Floats given = values;

  // Row 7 has three gradients, which are added in the order in which they are given.
  const std::vector<std::vector<std::size_t>> places = {{4}, {1}, {0, 3, 5}, {2}};
  const std::vector<std::int64_t> touched = {0, 3, 7, 49};
  std::vector<Floats> gradients;
  Coefficients coefficients = named(kernel, {{"lr", 0.5}, {"rate", 0}});
  const std::vector<double> of_all = coefficients.rule;
  coefficients.rule.clear();
  coefficients.stride = of_all.size();
  std::vector<double> squares;
  for (std::size_t k = 0; k < touched.size(); ++k) {
    const double rate = 1 + 0.25 * static_cast<double>(k);
    coefficients.rule.insert(coefficients.rule.end(), of_all.begin(), of_all.end());
    coefficients.rule.back() = rate;
    Floats g(width);
    for (std::size_t j = 0; j < width; ++j) {
      g[j] = values[places[k].front() * width + j];
      for (std::size_t i = 1; i < places[k].size(); ++i) g[j] += values[places[k][i] * width + j];
      float& x = expected[static_cast<std::size_t>(touched[k]) * (width + gap) + j];
      x = x - 0.5F * (static_cast<float>(rate) * g[j]);
    }
    gradients.push_back(std::move(g));
  }

  TableRows table({float32(p), width, rows, stride}, {}, {});
  require(!table.name(std::vector<std::int64_t>{50}.data(), 1), "a row that is not there");
  require(table.name(indices.data(), indices.size()), "the names of rows");
  table.take(float32(given));
  require(std::vector(table.touched(), table.touched() + table.size()) == touched, "which rows are touched");

  Plan plan({}, kernel_named("Average"), {});
  plan.take({{0, 0, kernel, &table}});
  std::vector<Run> runs;
  for (Floats& g : gradients) runs.push_back({float32(g), width});
  require(norm(plan.gradients()).value == norm(runs).value, "the norm of rows");

  Plan as_tensors({{kernel}}, kernel_named("Average"), [&] {
    std::vector<Tensor> tensors;
    for (std::size_t k = 0; k < touched.size(); ++k)
      tensors.push_back(tensor_of(gradients[k], gradients[k], {}));
    return tensors;
  }());
  require(plan.measure(0, {coefficients})[0].values == as_tensors.measure(0, {coefficients})[0].values,
          "the sums over rows");
  run(plan, 0, {coefficients}, false);
  require(same_bits(p, expected), "rows of a table");
}

/// The norm of 3, 4 and 12 is 13, with a table's row between two tensors.
void norms_are_pythagorean() {
  Floats a = {0}, b = {0}, c = {0}, g_a = {3}, g_c = {12}, given = {-4}, none = {0};
  const std::size_t sgd = kernel_named("SGD");
  Tensor middle = tensor_of(b, none, {});
  middle.stepped = false;
  Plan plan({{sgd}}, kernel_named("Average"), {tensor_of(a, g_a, {}), middle, tensor_of(c, g_c, {})});
  TableRows table({float32(b), 1, 1, sizeof(float)}, {}, {});
  const std::int64_t row = 0;
  require(table.name(&row, 1), "the only row");
  table.take(float32(given));
  plan.take({{1, 1, sgd, &table}});
  const std::vector<Run> runs = plan.gradients();
  require(runs.size() == 4 && runs[1].array.data == given.data() && runs[2].size == 0,
          "the order of gradients");
  require(norm(runs).value == 13 && norm(runs).finite, "the norm");
  given[0] = std::numeric_limits<float>::infinity();
  require(!norm(runs).finite, "the norm of what is not finite");

  const Coefficients coefficients = named(sgd, {{"lr", 1}});
  given[0] = -4;
  run(plan, 0, {coefficients, coefficients}, false);
  require(a[0] == -3 && b[0] == 4 && c[0] == -12, "tensors and a table in one step");
}

/// Muon's first sweep fills its direction, and the second steps along it; a kernel of one sweep runs in the
/// second only.
void a_kernel_may_have_two_sweeps() {
  const std::size_t direction = kernel_named("MuonDirection"), muon = kernel_named("Muon");
  const std::size_t sgd = kernel_named("SGD"), n = 9000;
  Floats p = numbers(n, 1), g = numbers(n, 2), buffer = numbers(n, 3), o(n), q = numbers(5, 4),
         g_q = numbers(5, 5);
  Floats expected_p = p, expected_buffer = buffer, expected_o(n), expected_q = q;
  const float momentum = 0.75F, gain = 0.5F, now = 2, past = 0.25F, lr = 0.125F;
  for (std::size_t i = 0; i < n; ++i) {
    expected_o[i] = now * g[i] + past * (momentum * buffer[i] + gain * g[i]);
    expected_buffer[i] = momentum * buffer[i] + gain * g[i];
    expected_p[i] = p[i] - lr * expected_o[i];
  }
  for (std::size_t i = 0; i < 5; ++i) expected_q[i] = q[i] - lr * g_q[i];

  Tensor other = tensor_of(q, g_q, {});
  other.group = 1;
  Plan plan({{direction, muon}, {sgd}}, kernel_named("Average"),
            {tensor_of(p, g, {float32(buffer), float32(o)}), other});
  require(plan.sweeps() == 2 && !plan.kernel_index(1, 0), "the sweeps of a plan");
  const Floats p_before = p, q_before = q;
  run(plan, 0, {named(direction, {{"momentum", momentum}, {"gain", gain}, {"now", now}, {"past", past}}), {}},
      true);
  require(same_bits(o, expected_o), "a direction");
  require(same_bits(p, p_before) && same_bits(q, q_before), "the first sweep writes directions alone");
  const Values of_muon = {{"momentum", momentum}, {"gain", gain}, {"lr", lr}};
  run(plan, 1, {named(muon, of_muon), named(sgd, {{"lr", lr}})}, true);
  require(same_bits(p, expected_p) && same_bits(buffer, expected_buffer), "a step along a direction");
  require(same_bits(q, expected_q), "a kernel of one sweep beside one of two");
  require(same_bits(g, Floats(n)) && same_bits(g_q, Floats(5)), "the last sweep sets gradients to 0");
}

}  // namespace

void steps() {
  adam_is_its_formula();
  slots_have_formats_of_their_own();
  averages_follow();
  rows_are_tensors();
  norms_are_pythagorean();
  a_kernel_may_have_two_sweeps();
}

}  // namespace fusedstep::testing
