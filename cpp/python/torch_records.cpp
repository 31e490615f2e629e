#include "python/torch_records.hpp"

#ifndef _WIN32
#include <dlfcn.h>
#endif

namespace fusedstep {
namespace {

using Asks = bool (*)();

/// at::hasCallbacks() of the torch that is loaded, if there is one with such a function.
Asks found() {
#if defined(__linux__) || defined(__APPLE__)
#ifdef __APPLE__
  constexpr const char* library = "@rpath/libtorch_cpu.dylib";
#else
  constexpr const char* library = "libtorch_cpu.so";
#endif
  void* const torch = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  return torch == nullptr ? nullptr : reinterpret_cast<Asks>(dlsym(torch, "_ZN2at12hasCallbacksEv"));
#else
  return nullptr;
#endif
}

}  // namespace

bool torch_records() {
  static const Asks asks = found();
  return asks == nullptr || asks();
}

}  // namespace fusedstep
