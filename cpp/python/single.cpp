#include "python/single.hpp"

#include <cstdint>
#include <stdexcept>
#include <utility>

#include "python/numpy.hpp"
#include "step/dispatch.hpp"

namespace fusedstep {
namespace {

/// Arrays of the size of the first, in formats that mix with its own.
class Alike {
 public:
  Array operator()(py::array& array) {
    const bool bits = array.dtype().num() == py::dtype::num_of<std::uint16_t>();
    const Array found{bits ? format_bf16 : checked_format(array.dtype()), array.mutable_data()};
    if (size_ < 0) {
      size_ = array.size();
      format_ = found.format;
    }
    const bool one_run = (array.flags() & py::array::c_style) != 0;
    if (!one_run || array.size() != size_ || !mix(found.format, format_))
      throw std::invalid_argument("arrays of equal size, of formats that mix, each in one run of memory");
    return found;
  }

 private:
  py::ssize_t size_ = -1;
  Format format_{};
};

}  // namespace

void step_single(const std::string& kernel, const py::object& coefficients, py::array p, py::array g,
                 std::vector<py::array> state, std::optional<py::array> average) {
  const std::size_t index = kernel_index(kernel);
  if (state.size() != active().kernels[index].slots) throw std::invalid_argument("another number of slots");
  Alike alike;
  Tensor tensor;
  tensor.p = alike(p);
  tensor.g = alike(g);
  for (std::size_t slot = 0; slot < state.size(); ++slot) tensor.state[slot] = alike(state[slot]);
  if (average) tensor.average = alike(*average);
  tensor.size = static_cast<std::size_t>(p.size());
  tensor.stepped = true;
  Plan plan({{index}}, kernel_index("Average"), {tensor});
  run_sweep(plan, 0, {coefficients}, false, nullptr);
}

}  // namespace fusedstep
