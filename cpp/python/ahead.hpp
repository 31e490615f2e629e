// Asking for memory before it is read.
#pragma once

#include <cstddef>
#include <vector>

namespace fusedstep {

/// Where a look-up of many items has read memory. The next one most likely reads there again, and asks for it
/// some items ahead, so that it need not wait for one item's memory after the other. An address may be of
/// memory that is no longer there: asking for it does nothing then.
class Ahead {
 public:
  /// There are at most so many places an item.
  explicit Ahead(std::size_t places) : places_(places) {}

  void resize(std::size_t items) { noted_.resize(items * places_); }

  /// Notes that an item's memory begins here and is so many bytes long.
  void note(std::size_t item, std::size_t place, const void* begin, std::size_t bytes) {
    noted_[item * places_ + place] = {static_cast<const char*>(begin), bytes};
  }

  /// Asks for the memory of an item that will soon be looked up, after this one.
  void ask(std::size_t item) const {
    if (item + distance >= noted_.size() / places_) return;
    for (std::size_t place = 0; place < places_; ++place) {
      const Noted& noted = noted_[(item + distance) * places_ + place];
      for (std::size_t at = 0; at < noted.bytes; at += line) prefetch(noted.begin + at);
    }
  }

 private:
  struct Noted {
    const char* begin = nullptr;
    std::size_t bytes = 0;
  };

  static constexpr std::size_t distance = 4, line = 64;

  static void prefetch([[maybe_unused]] const char* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address);
    asm volatile("");  // or GCC leaves out calls of functions that do nothing but this
#endif
  }

  std::size_t places_;
  std::vector<Noted> noted_;
};

}  // namespace fusedstep
