// The floating-point mode of the calling thread.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace fusedstep {

/// Gives the thread IEEE's own mode while it exists: rounding to nearest, no flushing of tiny numbers to
/// zero, no traps. Another library may have set something else in this thread, or in the one that made it,
/// and has it again afterwards.
class StandardMode {
 public:
  StandardMode() : found_(read()) {
    if ((found_ & modes) != standard) write(standard);
  }
  ~StandardMode() {
    if ((found_ & modes) != standard) write(found_);
  }
  StandardMode(const StandardMode&) = delete;
  StandardMode& operator=(const StandardMode&) = delete;

 private:
#if defined(__aarch64__)
  using Register = std::uint64_t;
  static constexpr Register modes = ~Register{0}, standard = 0;

  static Register read() {
    Register fpcr;
    asm volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
  }
  static void write(Register fpcr) { asm volatile("msr fpcr, %0" : : "r"(fpcr)); }
#else
  using Register = std::uint32_t;
  /// All bits of MXCSR but the lowest six, which record exceptions.
  static constexpr Register modes = 0xffc0, standard = 0x1f80;

  static Register read() { return _mm_getcsr(); }
  static void write(Register mxcsr) { _mm_setcsr(mxcsr); }
#endif

  Register found_;
};

}  // namespace fusedstep
