// Tensors of other libraries, read through the table of functions that DLPack defines (DLPack 1.3,
// https://dmlc.github.io/dlpack/latest/python_spec.html): reading a tensor's address costs some nanoseconds,
// and nothing is compiled or linked against the library.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>

#include "step/array.hpp"

namespace fusedstep {

namespace py = pybind11;

/// The C structures of DLPack, with the names of its specification.
namespace dlpack {

struct Version {
  std::uint32_t major, minor;
};
struct Device {
  std::int32_t type, id;
};
struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;
};
struct ExchangeAPI {
  Version version;
  ExchangeAPI* previous;
  void (*managed_tensor_allocator)();
  void (*managed_tensor_from_py_object)();
  void (*managed_tensor_to_py_object)();
  int (*dltensor_from_py_object)(void* object, Tensor* out);
  void (*current_work_stream)();
};

constexpr std::int32_t cpu = 1;
constexpr std::uint8_t code_int = 0, code_float = 2, code_bfloat = 4;

}  // namespace dlpack

/// Where a tensor's elements are. The tensor owns shape and strides; strides count elements.
struct View {
  Array array;
  std::size_t size;
  std::int32_t ndim;
  const std::int64_t *shape, *strides;
};

/// Reads the tensors of one library.
class Exchange {
 public:
  /// `type` is the class of the library's tensors, which holds the table of functions.
  explicit Exchange(py::type type) : type_(std::move(type)) {
    const py::object capsule = type_.attr("__dlpack_c_exchange_api__");
    api_ = static_cast<dlpack::ExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (api_ == nullptr) throw py::error_already_set();
    while (api_ != nullptr && api_->version.major != 1) api_ = api_->previous;
    if (api_ == nullptr || api_->dltensor_from_py_object == nullptr)
      throw std::runtime_error("this library's tensors cannot be read: DLPack 1's exchange is missing");
  }

  /// The tensor's memory; nothing if it has none that the kernels can use.
  std::optional<View> view(py::handle object) const {
    dlpack::Tensor t{};
    if (!read(object, t)) return {};
    const Format format = format_of(t.dtype);
    if (format == formats) return {};
    void* const data = data_of(t);
    if (reinterpret_cast<std::uintptr_t>(data) % width(format) != 0) return {};
    std::size_t size = 1;
    for (std::int32_t axis = 0; axis < t.ndim; ++axis) size *= static_cast<std::size_t>(t.shape[axis]);
    // Wrappers that hold other tensors have a shape, but no memory.
    if (t.data == nullptr && size != 0) return {};
    return View{{format, data}, size, t.ndim, t.shape, t.strides};
  }

  /// The numbers of an int64 tensor of one axis without gaps; nothing if the tensor is another.
  std::optional<std::span<const std::int64_t>> indices(py::handle object) const {
    dlpack::Tensor t{};
    if (!read(object, t)) return {};
    const bool is_int64 = t.dtype.code == dlpack::code_int && t.dtype.bits == 64 && t.dtype.lanes == 1;
    if (!is_int64 || t.ndim != 1 || (t.shape[0] > 1 && t.strides[0] != 1)) return {};
    if (t.data == nullptr && t.shape[0] != 0) return {};
    return {{static_cast<const std::int64_t*>(data_of(t)), static_cast<std::size_t>(t.shape[0])}};
  }

 private:
  /// Reads a tensor; returns false unless it is one of this library, in the memory of the CPU.
  bool read(py::handle object, dlpack::Tensor& t) const {
    if (PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(type_.ptr())) == 0) return false;
    if (api_->dltensor_from_py_object(object.ptr(), &t) != 0) {
      PyErr_Clear();
      return false;
    }
    return t.device.type == dlpack::cpu;
  }

  static void* data_of(const dlpack::Tensor& t) { return static_cast<char*>(t.data) + t.byte_offset; }

  static Format format_of(dlpack::DataType type) {
    if (type.lanes != 1) return formats;
    if (type.code == dlpack::code_bfloat) return type.bits == 16 ? format_bf16 : formats;
    if (type.code != dlpack::code_float) return formats;
    return type.bits == 32   ? format_f32
           : type.bits == 64 ? format_f64
           : type.bits == 16 ? format_f16
                             : formats;
  }

  py::type type_;
  dlpack::ExchangeAPI* api_;
};

/// Whether the elements fill one run of memory, in any order of axes.
inline bool is_dense(const View& view) {
  if (view.size == 0) return true;
  // From the innermost axis outwards, the stride of each axis must be the span of the axes inside it.
  std::int64_t span = 1;
  for (std::int32_t found = 0; found < view.ndim; ++found) {
    bool any = false;
    for (std::int32_t axis = 0; axis < view.ndim; ++axis)
      if (view.shape[axis] != 1 && view.strides[axis] == span) {
        span *= view.shape[axis];
        any = true;
        break;
      }
    if (!any) break;
  }
  return span == static_cast<std::int64_t>(view.size);
}

/// Whether the elements follow one another in the order of the axes, the last one innermost.
inline bool is_row_major(const View& view) {
  std::int64_t span = 1;
  for (std::int32_t axis = view.ndim - 1; axis >= 0 && view.size != 0; --axis) {
    if (view.shape[axis] != 1 && view.strides[axis] != span) return false;
    span *= view.shape[axis];
  }
  return true;
}

/// Whether both have the same shape and the same strides.
inline bool lies_as(const View& a, const View& b) {
  if (a.ndim != b.ndim) return false;
  for (std::int32_t axis = 0; axis < a.ndim; ++axis) {
    if (a.shape[axis] != b.shape[axis]) return false;
    if (a.shape[axis] != 1 && a.size != 0 && a.strides[axis] != b.strides[axis]) return false;
  }
  return true;
}

}  // namespace fusedstep
