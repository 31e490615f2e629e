// THE loop: one pass over one contiguous run of a tensor, for any rule and any number of state slots.
#pragma once

#include <stddef.h>

#include "kernels/storage.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

template <class Kept>
inline auto load(const Kept& kept) {
  return Storage<Kept>::load(kept);
}

template <class Kept, class T>
inline void store(Kept& kept, T x) {
  kept = Storage<Kept>::store(x);
}

/// Stores nothing: a rule only reads what it takes by value.
template <class Kept, class T>
inline void store(const Kept&, T) {}

/// Updates one element: loads everything, applies the prologue and the rule, stores everything but the
/// gradient.
template <class Prologue, class Rule, class P, class G, class... S>
inline void update(const Prologue& prologue, const Rule& rule, P& p, const G& g, S&... s) {
  auto body = [&](auto parameter, auto gradient, auto... slot) {
    prologue(parameter, gradient);
    rule(parameter, gradient, slot...);
    store(p, parameter);
    (store(s, slot), ...);
  };
  body(load(p), load(g), load(s)...);
}

template <class Prologue, class Rule, class P, class G, class... S>
inline void sweep(const Prologue& prologue, const Rule& rule, size_t begin, size_t end, P* p, const G* g,
                  S*... s) {
#pragma omp simd
  for (size_t i = begin; i < end; ++i) update(prologue, rule, p[i], g[i], s[i]...);
}

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
