// Steps with an average that replaces a learning-rate schedule. The parameter is y = (1 - β)z + βx, where x
// is the average of z and c is the weight of the newest z in x. Defazio et al. 2024, arXiv:2405.15682.
#pragma once

#include "kernels/arithmetic.hpp"
#include "kernels/coefficients.hpp"

namespace fusedstep::FUSEDSTEP_ISA {
namespace {

/// Schedule-Free SGD. arXiv:2405.15682, eq. 3-5.
template <class T>
struct ScheduleFreeSGD {
  COEFFICIENTS(decay, c, ahead, lr);  // ahead = lr·(1 - β(1 - c))

  void operator()(T& y, T g, T& z) const {
    const T direction = g + decay * y;
    y = y + c * (z - y) - ahead * direction;
    z = z - lr * direction;
  }
};

/// Schedule-Free AdamW. arXiv:2405.15682, Algorithm 1.
template <class T>
struct ScheduleFreeAdamW {
  COEFFICIENTS(beta2, gain2, root, eps, decay, c, ahead, lr);

  void operator()(T& y, T g, T& z, T& v) const {
    v = term(beta2, v) + gain2 * (g * g);
    const T direction = g / (sqrt(v) * root + eps) + decay * y;
    y = y + c * (z - y) - ahead * direction;
    z = z - lr * direction;
  }
};

}  // namespace
}  // namespace fusedstep::FUSEDSTEP_ISA
