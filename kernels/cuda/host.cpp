// Runs the kernels on the processor: the threads of a block as contexts that take turns, so that
// barriers and exchanges within a warp do what they do on a device, and a barrier that not all
// threads reach is found. Built into a library by the tests; see `host.h`.

#include "host.h"

#include <ucontext.h>

#include <string>
#include <utility>
#include <vector>

#include "numbers.cuh"

namespace pooling {
#include "pooling.cu"
}
namespace rows {
#include "rows.cu"
}
namespace lexical_weights {
#include "lexical.cu"
}
namespace late_interaction {
#include "max_sim.cu"
}

Index threadIdx;
Index blockIdx;

namespace {

constexpr unsigned WARP = 32;
constexpr std::size_t STACK_BYTES = 128 * 1024;

enum class State { Runs, AwaitsBlock, AwaitsWarp, Done };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK_BYTES);
    State state = State::Done;
    double shared = 0.0; // What it shows to the other lanes.
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
unsigned current;

using Call = void (*)(void (*)(), void**);
Call call;
void (*kernel)();
void** arguments;

template <typename... Arguments, std::size_t... At>
void unpack(void (*function)(Arguments...), void** values, std::index_sequence<At...>) {
    function(*static_cast<Arguments*>(values[At])...);
}

template <typename... Arguments>
void call_as(void (*function)(), void** values) {
    unpack(reinterpret_cast<void (*)(Arguments...)>(function), values,
           std::index_sequence_for<Arguments...>{});
}

struct Entry {
    std::string name;
    void (*kernel)();
    Call call;
};

template <typename... Arguments>
Entry entry(const char* name, void (*function)(Arguments...)) {
    return {name, reinterpret_cast<void (*)()>(function), call_as<Arguments...>};
}

#define ENTRY(space, name) entry(#name, space::name)
const Entry ENTRIES[] = {
    ENTRY(pooling, pool_f16),
    ENTRY(pooling, pool_f32),
    ENTRY(pooling, pool_f16_packs),
    ENTRY(pooling, pool_f32_packs),
    ENTRY(rows, unit_rows_f16),
    ENTRY(rows, unit_rows_f32),
    ENTRY(rows, unit_rows_f16_packs),
    ENTRY(rows, unit_rows_f32_packs),
    ENTRY(rows, half_unit_rows_f16),
    ENTRY(rows, half_unit_rows_f16_packs),
    ENTRY(lexical_weights, lexical_f16),
    ENTRY(lexical_weights, lexical_f32),
    ENTRY(late_interaction, max_sim_f16),
    ENTRY(late_interaction, max_sim_f32),
};

void run_current() {
    call(kernel, arguments);
    fibers[current].state = State::Done;
    swapcontext(&fibers[current].context, &scheduler);
}

void await(State state) {
    const Index own = threadIdx;
    fibers[current].state = state;
    swapcontext(&fibers[current].context, &scheduler);
    threadIdx = own;
}

void resume(unsigned thread) {
    current = thread;
    threadIdx = {thread, 0, 0};
    swapcontext(&scheduler, &fibers[thread].context);
}

// Lets those go on who wait for each other; whether there were any.
bool release() {
    bool block = true;
    for (const Fiber& fiber : fibers) {
        block = block && (fiber.state == State::AwaitsBlock || fiber.state == State::Done);
    }
    bool released = false;
    for (std::size_t first = 0; first < fibers.size(); first += WARP) {
        bool warp = true;
        for (std::size_t i = first; i < first + WARP; i++) {
            warp = warp && fibers[i].state == State::AwaitsWarp;
        }
        for (std::size_t i = first; i < first + WARP; i++) {
            if (warp || (block && fibers[i].state == State::AwaitsBlock)) {
                fibers[i].state = State::Runs;
                released = true;
            }
        }
    }
    return released;
}

// Runs one block; false when its threads wait for what never comes.
bool run_block() {
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_current, 0);
        fiber.state = State::Runs;
    }
    for (;;) {
        bool all_done = true;
        for (unsigned thread = 0; thread < fibers.size(); thread++) {
            if (fibers[thread].state == State::Runs) resume(thread);
            all_done = all_done && fibers[thread].state == State::Done;
        }
        if (all_done) return true;
        if (!release()) return false;
    }
}

} // namespace

void __syncthreads() { await(State::AwaitsBlock); }

double __shfl_xor_sync(unsigned, double value, int distance) {
    const unsigned own = current;
    fibers[own].shared = value;
    await(State::AwaitsWarp);
    const double other = fibers[own ^ static_cast<unsigned>(distance)].shared;
    await(State::AwaitsWarp);
    return other;
}

// Runs every block of a launch. `nullptr`, or what is wrong with it.
extern "C" const char* host_launch(const char* name, const unsigned* grid, unsigned threads,
                                   void** values) {
    for (const Entry& known : ENTRIES) {
        if (known.name != name) continue;
        if (threads == 0 || threads % WARP != 0) return "a block is no number of whole warps";
        kernel = known.kernel;
        call = known.call;
        arguments = values;
        fibers.resize(threads);
        for (unsigned z = 0; z < grid[2]; z++) {
            for (unsigned y = 0; y < grid[1]; y++) {
                for (unsigned x = 0; x < grid[0]; x++) {
                    blockIdx = {x, y, z};
                    if (!run_block()) return "threads wait for others that do not come";
                }
            }
        }
        return nullptr;
    }
    return "there is no kernel of this name";
}
