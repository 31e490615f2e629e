// Steps that take from the gradient its sign alone.
#pragma once

#include "../arithmetic.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Resilient backpropagation, without going back. Riedmiller & Braun 1993; Igel & Hüsken 2000 (iRprop-).
template <class T>
struct Rprop {
  T lr, minus, plus, least, most;  // a step of 0 is one that has not begun, with lr

  void operator()(T& p, T g, T& prev, T& step) const {
    const T agreement = g * prev;
    const T factor = agreement > 0 ? plus : agreement < 0 ? minus : T(1);
    step = clamp((step == 0 ? lr : step) * factor, least, most);
    prev = agreement < 0 ? T(0) : g;
    p = p - sign(prev) * step;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
