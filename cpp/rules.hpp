// The rules that are compiled: one name a line, each a struct in rules/.
#pragma once

#include "rules/adagrad.hpp"
#include "rules/adam.hpp"
#include "rules/average.hpp"
#include "rules/sgd.hpp"

#define FUSEDSTEP_RULES(RULE)   \
  RULE(SGD)                     \
  RULE(Momentum)                \
  RULE(EMAMomentum)             \
  RULE(Nesterov)                \
  RULE(Adagrad)                 \
  RULE(RMSProp)                 \
  RULE(RMSPropCentered)         \
  RULE(RMSPropMomentum)         \
  RULE(RMSPropCenteredMomentum) \
  RULE(Adam)                    \
  RULE(AMSGrad)                 \
  RULE(RAdam)                   \
  RULE(Average)
