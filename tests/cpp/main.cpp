// Runs the tests on every instruction set that the processor has, with one thread and with several.
#include "support.hpp"

namespace fusedstep::testing {

void steps();
void mixes();
void sums();
void rows();
void nothing();
void modes();
void threads();

}  // namespace fusedstep::testing

int main() {
  using namespace fusedstep;
  using namespace fusedstep::testing;
  for (const Table* table : available()) {
    use(table->isa);
    for (const int count : {1, 3}) {
      set_num_threads(count);
      steps();
      mixes();
      sums();
      rows();
      nothing();
      modes();
    }
    threads();
  }
  return 0;
}
