#include "step/coefficients.hpp"

#include <limits>

#include "kernels/table.hpp"

namespace fusedstep {

std::vector<double> no_prologue() {
  std::vector<double> coefficients(c_rule, 0);
  coefficients[c_scale] = coefficients[c_keep] = 1;
  coefficients[c_clip] = std::numeric_limits<double>::infinity();
  return coefficients;
}

std::vector<std::string_view> separate(std::string_view names) {
  constexpr std::string_view separator = ", ";
  std::vector<std::string_view> list;
  for (std::size_t end; (end = names.find(separator)) != names.npos;
       names.remove_prefix(end + separator.size()))
    list.push_back(names.substr(0, end));
  list.push_back(names);
  return list;
}

}  // namespace fusedstep
