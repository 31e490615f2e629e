// The rules that are compiled: one name a line, each a struct in rules/.
#pragma once

#include "rules/adagrad.hpp"
#include "rules/adam.hpp"
#include "rules/average.hpp"
#include "rules/sgd.hpp"
#include "rules/sign.hpp"

#define FUSEDSTEP_RULES(RULE)   \
  RULE(SGD)                     \
  RULE(Momentum)                \
  RULE(EMAMomentum)             \
  RULE(Nesterov)                \
  RULE(SGDM)                    \
  RULE(SGDMNesterov)            \
  RULE(ASGD)                    \
  RULE(Adagrad)                 \
  RULE(RMSProp)                 \
  RULE(RMSPropCentered)         \
  RULE(RMSPropMomentum)         \
  RULE(RMSPropCenteredMomentum) \
  RULE(Adadelta)                \
  RULE(Adam)                    \
  RULE(AMSGrad)                 \
  RULE(NAdam)                   \
  RULE(Adamax)                  \
  RULE(RAdam)                   \
  RULE(Rprop)                   \
  RULE(Average)
