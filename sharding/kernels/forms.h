// What each form of fresh.cpp, ids.cpp and rows.cpp has.
void pool(const Table* tables, const Feature* features, const Batch& batch, float* out, int threads);
void update(const Table* tables, int64_t count, const Feature* features, const Batch& batch, const float* gradient, const Step& step, int threads);
int64_t sum(const Table* tables, int64_t count, int64_t t, const Feature* features, const Batch& batch, const float* gradient, int64_t* rows, float* sums);
void update_all(const Table& table, const float* gradient, int64_t stride, int64_t named, const Step& step, int threads);
int64_t distinct(int64_t buckets, const int64_t* ids, const int64_t* times, int64_t n, int64_t* found, int64_t* counts, int64_t* which, int64_t* starts, int threads);
int64_t find(const IdMap& map, const int64_t* ids, int64_t n, int64_t* rows, int threads);
int64_t observe(const IdMap& map, const Arrivals& arrivals, const Outcome& outcome, int threads);
void draw(const Draw& of, const int64_t* ids, int64_t n, float* values, int threads);
void renew(const Fresh& fresh, int threads);
