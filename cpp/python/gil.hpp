// Work without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>

#if __has_include(<cxxabi.h>)
#include <cxxabi.h>
#endif

#include "step/forks.hpp"

namespace fusedstep {

/// Calls a function of Python that may have to wait for the GIL. Once the interpreter ends, Python ends every
/// other thread that waits for it. With glibc that unwinds the stack, through destructors that may not throw
/// and code that needs the GIL; so the thread sleeps instead until the process has ended, as all threads do
/// from Python 3.14 on.
template <class Function>
auto or_sleep(const Function& function) {
#ifdef __GLIBCXX__
  try {
    return function();
  } catch (abi::__forced_unwind&) {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }
#else
  return function();
#endif
}

/// Calls `work` without the GIL. A fork of the process waits until the work is done, so that the child finds
/// all of it done.
template <class Work>
void without_gil(const Work& work) {
  PyThreadState* thread = nullptr;
  std::exception_ptr failure;
  {
    const Unforked unforked;
    thread = PyEval_SaveThread();
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
  }  // before the GIL is taken back, since a thread that forks waits with the GIL
  or_sleep([thread] { PyEval_RestoreThread(thread); });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fusedstep
