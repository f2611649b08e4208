// Arrays of columns, gone through by chunks of rows. Columns' sums are those of chunks, added up in their order, so that they are
// the same for any number of threads.
//
// Included inside the namespace of a set of instructions, after `lanes.h`.
// Returns how many rows are a chunk, whose numbers fit a core's first cache.
static inline int64_t chunk_rows(const Columns& x) { return std::max<int64_t>(16, 4096 / std::max<int64_t>(1, x.columns)); }

// Returns what a row adds to moments: nothing, whatever stands there, if it is not live.
static inline Lanes counted(const Columns& x, int64_t row, Lanes lanes) { return x.live && !x.live[row] ? Lanes{} : lanes; }

// Adds up what part(first row, last row, first column, columns, found) finds, N numbers of each column: sums [N, columns].
template <int N, class Part> static void sum_chunks(const Columns& x, float* sums, int threads, const Part& part) {
    const int64_t size = chunk_rows(x), chunks = (x.rows + size - 1) / size, width = (x.columns + LANES - 1) / LANES * LANES;
    std::vector<float> of_chunk(chunks * N * width);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < chunks; c++)
        for (int64_t d = 0; d < x.columns; d += LANES) {
            Lanes found[N];
            for (Lanes& of : found) of = Lanes{};
            part(c * size, std::min(x.rows, (c + 1) * size), d, std::min(LANES, x.columns - d), found);
            for (int i = 0; i < N; i++) store(&of_chunk[(c * N + i) * width + d], found[i]);
        }
    std::vector<double> whole(N * width);
    for (int64_t c = 0; c < chunks; c++)  // memory is read as it lies: along columns it would be a line of cache for each number
        for (int64_t d = 0; d < N * width; d++) whole[d] += of_chunk[c * N * width + d];
    for (int i = 0; i < N; i++)
        for (int64_t d = 0; d < x.columns; d++) sums[i * x.columns + d] = (float)whole[i * width + d];
}

template <class Part> static void each_chunk(const Columns& x, int threads, const Part& part) {
    const int64_t size = chunk_rows(x), chunks = (x.rows + size - 1) / size;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t c = 0; c < chunks; c++)
        for (int64_t d = 0; d < x.columns; d += LANES) part(c * size, std::min(x.rows, (c + 1) * size), d, std::min(LANES, x.columns - d));
}
