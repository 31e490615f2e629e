// How a rule declares its coefficients together with their names.
#pragma once

/// COEFFICIENTS(beta1, step); declares the fields `T beta1, step;` and keeps their names in this order, since
/// callers give the values by name.
#define COEFFICIENTS(...) \
  T __VA_ARGS__;          \
  static constexpr const char* names = #__VA_ARGS__
