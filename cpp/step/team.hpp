// The threads of another library's OpenMP runtime.
#pragma once

namespace fusedstep {

/// Looks for the OpenMP runtime of a library that is loaded, such as "libtorch_cpu.so". Only GNU's can be
/// used, and only on Linux; without it, no team is ever awake.
void find_team(const char* library);

/// Whether the threads that the runtime has for the calling thread are running now, each with a core for
/// itself. Then they look for work: they have none but what the calling thread gives them. For some
/// milliseconds after other work they have the cores, and a thread of our own would have to share with them.
/// Where they are asleep, or share a core with others, it takes long until they come, and the runtime waits
/// for all of them.
bool team_is_awake();

/// Calls work(context) in each thread of the team, the calling one among them; returns when all are done.
void run_in_team(void (*work)(void*), void* context);

}  // namespace fusedstep
