// A gradient that is rows of a torch parameter, as a lookup in an embedding makes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "python/dlpack.hpp"
#include "step/plan.hpp"
#include "step/table_rows.hpp"

namespace fusedstep {

/// The touched rows of a parameter, and the tensor that their gradients are read from.
struct TorchRows {
  TableRows table;
  py::object values;
  Run run;  // the memory of the values
};

/// The touched rows of a tensor whose parameter is seen as `p` and whose `slots` state slots lie as the
/// parameter does. The gradients are `values`, seen as `given`, one row for each of `indices`. Returns null
/// if something cannot be used as it is; throws py::index_error if the parameter lacks a row.
std::shared_ptr<TorchRows> take_torch_rows(const View& p, const Tensor& tensor, std::size_t slots,
                                           std::span<const std::int64_t> indices, const View& given,
                                           const py::object& values);

}  // namespace fusedstep
