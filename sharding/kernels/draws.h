// 64 random bits of a counter: `mixed` of `tables/draws.py`.
//
// Included inside the namespace of a set of instructions.
static inline uint64_t mixed(uint64_t word) {
    for (uint64_t factor : {0xFF51AFD7ED558CCDull, 0xC4CEB9FE1A85EC53ull}) word = (word ^ (word >> 33)) * factor;
    return word ^ (word >> 33);
}
