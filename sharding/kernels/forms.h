// What each form of rows.cpp has.
void pool(const Table* tables, const Feature* features, const Batch& batch, float* out, int threads);
void update(const Table* tables, int64_t count, const Feature* features, const Batch& batch, const float* gradient, const Step& step, int threads);
int64_t sum(const Table* tables, int64_t count, int64_t t, const Feature* features, const Batch& batch, const float* gradient, int64_t* rows, float* sums);
void update_all(const Table& table, const float* gradient, int64_t stride, int64_t named, const Step& step, int threads);
