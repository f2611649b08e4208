// Memory that a kernel works in. Where there is none a call returns NO_MEMORY, and `kernel_short_of` says how much it was.
//
// A kernel takes it before it divides work among threads: no error may leave a thread.
#pragma once
#include <cstdint>
#include <limits>
#include <memory>
#include <new>

constexpr int64_t NO_MEMORY = std::numeric_limits<int64_t>::min();

struct NoMemory : std::bad_alloc {
    int64_t bytes;
    explicit NoMemory(int64_t bytes) : bytes(bytes) {}
};

// Returns room for n values, which are not set. Throws NoMemory.
template <typename T>
std::unique_ptr<T[]> room(int64_t n) {
    T* values = n > std::numeric_limits<int64_t>::max() / (int64_t)sizeof(T) ? nullptr : new (std::nothrow) T[n];
    if (!values) throw NoMemory(n * (int64_t)sizeof(T));
    return std::unique_ptr<T[]>(values);
}

// Returns what a call returns, NO_MEMORY where it throws; short_of: set to the bytes that it asked for, 0 if nobody knows.
template <typename Call>
int64_t unless_short(int64_t& short_of, const Call& call) {
    try {
        return call();
    } catch (const NoMemory& error) {
        short_of = error.bytes;
    } catch (const std::bad_alloc&) {
        short_of = 0;
    }
    return NO_MEMORY;
}
