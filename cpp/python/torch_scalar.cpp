#include "python/torch_scalar.hpp"

namespace fusedstep {

TorchScalar scalar_of(const std::optional<View>& view) {
  if (!view || view->size != 1) throw py::type_error("the scalars of a state must be tensors of one element");
  switch (view->array.format) {
    case format_f32:
      return {view->array, static_cast<double>(*static_cast<const float*>(view->array.data))};
    case format_f64:
      return {view->array, *static_cast<const double*>(view->array.data)};
    default:
      throw py::type_error("the scalars of a state must be float32 or float64");
  }
}

void set_scalar(const TorchScalar& scalar, double value) {
  if (scalar.array.format == format_f32)
    *static_cast<float*>(scalar.array.data) = static_cast<float>(value);
  else
    *static_cast<double*>(scalar.array.data) = value;
}

}  // namespace fusedstep
