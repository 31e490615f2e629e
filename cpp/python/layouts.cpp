#include "python/layouts.hpp"

#include <algorithm>
#include <utility>

namespace fusedstep {
namespace {

bool is_as_it_was(const py::array& array, const void* data, const py::object& type,
                  const std::vector<py::ssize_t>& axes) {
  const auto n = static_cast<std::size_t>(array.ndim());
  const py::handle found = py::detail::array_proxy(array.ptr())->descr;
  return array.data() == data && (found.is(type) || type.equal(found)) && axes.size() == 2 * n &&
         std::equal(array.shape(), array.shape() + n, axes.data()) &&
         std::equal(array.strides(), array.strides() + n, axes.data() + n);
}

}  // namespace

Layouts::Layouts(std::vector<py::array> arrays) {
  for (py::array& array : arrays) {
    std::vector<py::ssize_t> axes(array.shape(), array.shape() + array.ndim());
    axes.insert(axes.end(), array.strides(), array.strides() + array.ndim());
    const void* const data = array.data();
    py::object type = array.dtype();
    layouts_.push_back({std::move(array), data, std::move(type), std::move(axes)});
  }
}

std::optional<std::size_t> Layouts::changed() const {
  for (std::size_t i = 0; i < layouts_.size(); ++i)
    if (!is_as_it_was(layouts_[i].array, layouts_[i].data, layouts_[i].type, layouts_[i].axes)) return i;
  return {};
}

}  // namespace fusedstep
